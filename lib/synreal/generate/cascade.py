"""DeepFloyd IF's cascade: a text-conditional base in pixel space, then super-resolution.

IF's third stage, 256 to 1024 pixels, is left out: P1 measures images of 256 pixels.
"""

from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from diffusers import (
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    IFPipeline,
    IFSuperResolutionPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTokenizer, T5Config, T5EncoderModel

from synreal.errors import InputError
from synreal.generate.backends import SETTINGS_FILE, Backend, Draw, in_batches, load_diffusers
from synreal.strict_yaml import dump_yaml

TEXT_WIDTH = 64
NOISE_LEVEL = 100  # of the world's cascade: at 250 nothing finer than the base image would be left of it


class Cascade(Backend, frozen=True):
    """An IFPipeline and an IFSuperResolutionPipeline, whose folders lie in `folder`."""

    kind: Literal["cascade"] = "cascade"
    base: Path = Path("base")  # such as IF-I-XL-v1.0
    upscaler: Path = Path("upscaler")  # such as IF-II-L-v1.0
    noise_level: int = 250  # of the base image as the upscaler sees it, 0..999
    upscaler_guidance: float = 4.0  # IF's own; the study's guidance scale is the base's

    @property
    def folders(self) -> tuple[Path, ...]:
        return (self.folder / self.base, self.folder / self.upscaler)

    def load(self) -> Draw:
        """Raises InputError when weights, or what reads their tokenizer, are missing."""
        _check_tokenizer(self.folders[0] / "tokenizer")
        unmarked: dict[str, Any] = {"watermarker": None, "requires_safety_checker": False}
        base = load_diffusers(IFPipeline, self.folders[0], **unmarked)
        # The base's text embeddings serve both stages.
        unmarked |= {"text_encoder": None, "tokenizer": None}
        upscaler = load_diffusers(IFSuperResolutionPipeline, self.folders[1], **unmarked)
        return partial(in_batches, partial(self._draw_batch, base, upscaler), batch_size=self.batch_size)

    def _draw_batch(
        self,
        base: IFPipeline,
        upscaler: IFSuperResolutionPipeline,
        prompts: list[str],
        noise: list[torch.Generator],
        guidance_scale: float,
        steps: int,
    ) -> np.ndarray:
        text, empty = base.encode_prompt(prompts, clean_caption=True)
        given = {"prompt_embeds": text, "negative_prompt_embeds": empty}
        given |= {"generator": noise, "num_inference_steps": steps}
        small = base(**given, guidance_scale=guidance_scale, output_type="pt").images
        return upscaler(
            **given,
            image=small,
            guidance_scale=self.upscaler_guidance,
            noise_level=self.noise_level,
            output_type="np",
        ).images


def _check_tokenizer(folder: Path) -> None:
    """IF publishes its tokenizer as a SentencePiece model alone, which transformers cannot read by itself."""
    model = folder / "spiece.model"
    lacking = [name for name in ("sentencepiece", "google.protobuf") if not _installed(name)]
    if lacking and model.exists() and not (folder / "tokenizer.json").exists():
        raise InputError(
            f"{model}: reading it needs the package {' and '.join(lacking)}: `pip install sentencepiece "
            "protobuf`, or put tokenizer.json of a T5 tokenizer beside it"
        )


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # not even the package around it
        return False


def new_cascade(tokenizer: CLIPTokenizer) -> tuple[IFPipeline, IFSuperResolutionPipeline]:
    """An untrained cascade for the world: 16x16 pixels from text, then 32x32.

    The text encoder is a small T5, as IF's; its tokenizer is the world's own.
    """
    base = IFPipeline(
        text_encoder=_text_encoder(tokenizer),
        tokenizer=tokenizer,
        unet=_denoiser(sample_size=16, in_channels=3, block_out_channels=(32, 48, 64)),
        **_common(),
    )
    upscaler = IFSuperResolutionPipeline(
        text_encoder=None,
        tokenizer=None,
        unet=_denoiser(
            sample_size=32, in_channels=6, block_out_channels=(16, 32, 32), class_embed_type="timestep"
        ),
        image_noising_scheduler=DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
        **_common(),
    )
    return base, upscaler


def save_cascade(base: IFPipeline, upscaler: IFSuperResolutionPipeline, folder: Path) -> None:
    """Write the world's cascade in half precision, as `Cascade` loads it."""
    base.to(torch.float16).save_pretrained(folder / "base")
    upscaler.to(torch.float16).save_pretrained(folder / "upscaler")
    # The text says little about what super-resolution adds to so small an image, so it is not guided.
    settings = {"kind": "cascade", "noise_level": NOISE_LEVEL, "upscaler_guidance": 1.0}
    (folder / SETTINGS_FILE).write_text(dump_yaml(settings), encoding="utf-8")


def _common() -> dict[str, Any]:
    """A fast sampler with IF's noise levels and dynamic thresholding, and no filters.

    Velocity is predicted, not IF's noise: at this size it learns the colours of an image far sooner.
    """
    scheduler = DPMSolverMultistepScheduler(
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        thresholding=True,
        dynamic_thresholding_ratio=0.95,
        sample_max_value=1.5,
    )
    filters = dict.fromkeys(["safety_checker", "feature_extractor", "watermarker"])
    return {"scheduler": scheduler, **filters, "requires_safety_checker": False}


def _text_encoder(tokenizer: CLIPTokenizer) -> T5EncoderModel:
    return T5EncoderModel(
        T5Config(
            vocab_size=len(tokenizer),
            d_model=TEXT_WIDTH,
            d_kv=16,
            d_ff=2 * TEXT_WIDTH,
            num_layers=2,
            num_heads=4,
            feed_forward_proj="gated-gelu",
            dropout_rate=0.0,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


def _denoiser(**differences: Any) -> UNet2DConditionModel:
    """Six channels out, as IF's: the image, and a variance that this sampler does not use."""
    return UNet2DConditionModel(
        out_channels=6,
        layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
        **differences,
    )
