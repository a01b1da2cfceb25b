"""A small latent diffusion pipeline in diffusers' own format, with its tokenizer."""

import json
from collections.abc import Iterable
from copy import deepcopy
from pathlib import Path

from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import save_file
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from synreal.generate.autoencoder import PatchAutoencoder
from synreal.generate.backends import CHANGED_WEIGHTS, SETTINGS_FILE, StableDiffusion
from synreal.strict_yaml import dump_yaml

MAX_LENGTH = 32  # tokens, with start and end
_ALPHABET = [letter + end for end in ("", "</w>") for letter in sorted(ByteLevel.alphabet())]
_SPECIAL = ["<|startoftext|>", "<|endoftext|>"]


def learn_tokenizer(texts: Iterable[str], vocabulary: int = 768) -> CLIPTokenizer:
    """A CLIPTokenizer of at most `vocabulary` tokens; unseen words fall back to pieces, then to bytes.

    The same texts give the same tokens in every process.
    """
    # Named beforehand, letters that end a word are numbered in a fixed order, so that ties break alike.
    endings = _ALPHABET[len(_ALPHABET) // 2 :]
    trained = _tokenizer(merges=[]).train_new_from_iterator(texts, vocabulary, new_special_tokens=endings)
    merges = json.loads(trained.backend_tokenizer.to_str())["model"]["merges"]
    return _tokenizer([tuple(merge) for merge in merges])


def _tokenizer(merges: list[tuple[str, str]]) -> CLIPTokenizer:
    tokens = dict.fromkeys([*_ALPHABET, *("".join(merge) for merge in merges), *_SPECIAL])
    vocab = {token: i for i, token in enumerate(tokens)}
    tokenizer = CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=MAX_LENGTH)
    if len(tokenizer) != len(vocab):  # some versions of transformers ignore these arguments without a word
        raise RuntimeError(f"CLIPTokenizer holds {len(tokenizer)} tokens, expected {len(vocab)}")
    return tokenizer


# The world's generator: a small Stable Diffusion, made of diffusers' and transformers' own parts.


TEXT_WIDTH = 128
# What an epsilon model learns anew. The coarse level (4x4), most of the weights, stays as it is: what it has
# to find in the latents is the same whichever way the answer is put.
RELEARNT = ("conv_in", "time_embedding", "down_blocks.0", "up_blocks.1", "conv_norm_out", "conv_out")


def new_pipeline(tokenizer: CLIPTokenizer, autoencoder: PatchAutoencoder) -> StableDiffusionPipeline:
    """An untrained text-conditional latent diffusion pipeline for 32x32 images (8x8 latents)."""
    return StableDiffusionPipeline(
        vae=autoencoder,
        text_encoder=_text_encoder(tokenizer),
        tokenizer=tokenizer,
        unet=_denoiser(autoencoder.config.latent_channels),
        scheduler=DPMSolverMultistepScheduler(
            beta_schedule="squaredcos_cap_v2",
            prediction_type="v_prediction",
            timestep_spacing="trailing",
            steps_offset=1,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def epsilon_pipeline(pipeline: StableDiffusionPipeline) -> StableDiffusionPipeline:
    """The counterpart of SD v1.5, to be trained: predicts noise, and samples as SD v1.5 does.

    That is: its noise levels end before pure noise, and sampling starts below the last of them ("leading"),
    from pure noise all the same; so images keep to a middling brightness. Autoencoder, tokenizer and text
    encoder are those of `pipeline`, whose text encoder is frozen; the denoiser starts from its weights.
    """
    pipeline.text_encoder.requires_grad_(False)
    unet = deepcopy(pipeline.unet)
    for name, weights in unet.named_parameters():
        weights.requires_grad_(name.startswith(RELEARNT))
    scheduler = DPMSolverMultistepScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type="epsilon",
        timestep_spacing="leading",
        steps_offset=1,
    )
    return StableDiffusionPipeline(
        **{**pipeline.components, "unet": unet, "scheduler": scheduler}, requires_safety_checker=False
    )


def save_epsilon(pipeline: StableDiffusionPipeline, folder: Path, base: str) -> None:
    """Write what differs from the pipeline in `base`, a path relative to `folder`, in half precision."""
    pipeline.scheduler.save_pretrained(folder / "scheduler")
    weights = pipeline.unet.state_dict()
    relearnt = {name: weights[name].half().contiguous() for name in weights if name.startswith(RELEARNT)}
    save_file(relearnt, folder / CHANGED_WEIGHTS, metadata={"format": "pt"})
    fingerprint = StableDiffusion(folder=folder / base).fingerprint()
    settings = {"kind": "stable-diffusion", "base": base, "base_weights": fingerprint}
    (folder / SETTINGS_FILE).write_text(dump_yaml(settings), encoding="utf-8")


def _text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            projection_dim=TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=MAX_LENGTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def _denoiser(channels: int) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=channels,
        out_channels=channels,
        layers_per_block=1,
        block_out_channels=(64, 128),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
    )
