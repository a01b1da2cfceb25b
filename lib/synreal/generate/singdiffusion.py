"""SingDiffusion (Zhang et al. 2024): a module for the first step of sampling, before a normal pipeline.

At the last noise level nothing of the image is left, and a model that predicts noise cannot say what the
image looks like. The usual samplers skip that level, as if pure noise still held a little of the image; so
images keep the mean of the noise, a middling brightness. Here a U-Net without time predicts the average image
of a prompt from pure noise; sampling goes on from that average, noised to the pipeline's first timestep.
"""

from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.resnet import ResnetBlock2D
from diffusers.utils.torch_utils import randn_tensor
from pydantic import TypeAdapter
from safetensors.torch import load_file
from torch import Tensor

from synreal.errors import InputError
from synreal.generate.backends import (
    SETTINGS_FILE,
    Backend,
    Draw,
    StableDiffusion,
    check_base,
    in_batches,
    open_as,
    quiet,
    resized,
    run_pipeline,
)
from synreal.strict_yaml import dump_yaml

_NORMAL = TypeAdapter(StableDiffusion)


class SingDiffusion(Backend, frozen=True):
    """The initial step in `folder` (config.json and weights, as published), before the pipeline in `base`."""

    kind: Literal["singdiffusion"] = "singdiffusion"
    base: Path  # a Stable Diffusion pipeline that predicts noise
    base_weights: str | None = None  # fingerprint of the base that the initial step was trained for

    @property
    def normal(self) -> StableDiffusion:
        """The generator that goes on after the initial step."""
        return open_as(_NORMAL, self.folder / self.base)

    @property
    def folders(self) -> tuple[Path, ...]:
        return (self.folder, *self.normal.folders)

    def load(self) -> Draw:
        """Raises InputError when weights are missing or `base` is not what `folder` was trained for."""
        normal = self.normal
        check_base(self.folder, normal, self.base_weights)
        pipeline, initial = normal.pipeline(), load_initial_step(self.folder)
        with quiet():  # diffusers warns of any change of precision
            initial.to(pipeline.device, pipeline.unet.dtype)

        def batch(prompts: list[str], noise: list[torch.Generator], scale: float, steps: int) -> np.ndarray:
            latents = initial_latents(initial, pipeline, prompts, noise, scale, steps)
            return run_pipeline(pipeline, prompts, noise, scale, steps, latents)

        draw = partial(in_batches, batch, batch_size=self.batch_size)
        return lambda *request: resized(draw(*request), normal.size)


def new_initial_step(pipeline: StableDiffusionPipeline) -> UNet2DConditionModel:
    """An untrained initial step for the world's pipeline, far smaller than its denoiser.

    It has an average to learn for each prompt, and no detail.
    """
    denoiser = pipeline.unet.config
    return without_time(
        UNet2DConditionModel(
            sample_size=denoiser.sample_size,
            in_channels=denoiser.in_channels,
            out_channels=denoiser.out_channels,
            layers_per_block=1,
            block_out_channels=(32, 64),
            down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=denoiser.cross_attention_dim,
            attention_head_dim=4,
            norm_num_groups=16,
        )
    )


def without_time(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """The U-Net with the time taken out of its residual blocks, in place."""
    for block in unet.modules():
        if isinstance(block, ResnetBlock2D):
            del block.time_emb_proj  # for a module set to None, loading would take any weights
            block.time_emb_proj, block.time_embedding_norm = None, None
    unet.time_embedding.requires_grad_(False)  # it is still computed, and nobody reads it
    return unet


def average_latents(unet: UNet2DConditionModel, noise: Tensor, text: Tensor) -> Tensor:
    """What the initial step predicts: the average latents of the prompts [N, C, H, W]."""
    return unet(noise, 0, text).sample  # the time is read by no block


def save_initial_step(unet: UNet2DConditionModel, folder: Path, base: str) -> None:
    """Write the initial step in half precision, for the pipeline in `base`, a path relative to `folder`."""
    unet.half().save_pretrained(folder)
    weights = open_as(_NORMAL, folder / base).fingerprint()
    settings = {"kind": "singdiffusion", "base": base, "base_weights": weights}
    (folder / SETTINGS_FILE).write_text(dump_yaml(settings), encoding="utf-8")


def load_initial_step(folder: Path) -> UNet2DConditionModel:
    """The initial step saved in a folder; raises InputError when its weights are missing or do not fit."""
    files = [folder / f"diffusion_pytorch_model.{suffix}" for suffix in ("safetensors", "bin")]
    weights = next((file for file in files if file.exists()), None)
    if weights is None or not (folder / "config.json").exists():
        raise InputError(
            f"{folder}: no initial step; put there config.json and diffusion_pytorch_model.safetensors "
            "(or .bin) of SingDiffusion's module"
        )
    unet = without_time(UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(folder)))
    state = load_file(weights) if weights.suffix == ".safetensors" else torch.load(weights, weights_only=True)
    try:
        unet.load_state_dict(state)
    except RuntimeError as error:
        raise InputError(f"{weights}: does not fit config.json as a U-Net without time: {error}") from error
    return unet.eval()


@torch.no_grad()
def initial_latents(
    initial: UNet2DConditionModel,
    pipeline: StableDiffusionPipeline,
    prompts: list[str],
    noise: list[torch.Generator],
    guidance_scale: float,
    steps: int,
) -> Tensor:
    """Latents [N, C, H, W] at the first timestep of the pipeline, to be handed to it.

    The guided average is divided by the scale: guidance would otherwise blow up what is an average.
    """
    scheduler, unet = pipeline.scheduler, pipeline.unet
    scheduler.set_timesteps(steps, device=pipeline.device)
    shape = (len(prompts), unet.config.in_channels, unet.config.sample_size, unet.config.sample_size)
    start = randn_tensor(shape, generator=noise, device=pipeline.device, dtype=unet.dtype)
    text, empty = pipeline.encode_prompt(prompts, pipeline.device, 1, True)
    average = average_latents(initial, start, text)
    if guidance_scale > 1:
        unguided = average_latents(initial, start, empty)
        average = (unguided + guidance_scale * (average - unguided)) / guidance_scale
    noised = scheduler.add_noise(average, start, scheduler.timesteps[:1])
    return noised / scheduler.init_noise_sigma  # which the pipeline multiplies by
