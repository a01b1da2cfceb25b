"""Images drawn batch by batch, each from its own seed, so that it does not depend on its neighbours."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from torch import Tensor

from synreal.errors import InputError

# (prompts, one random generator per image; floats in 0..1
DrawBatch = Callable[[list[str], list[torch.Generator], float, int], np.ndarray]


def sample_images(
    pipeline: StableDiffusionPipeline,
    prompts: Sequence[str],
    seeds: Sequence[int],
    guidance_scale: float = 2.0,
    steps: int = 10,
    batch_size: int = 128,
) -> np.ndarray:
    """One image per prompt, uint8 [N, H, W, 3].

    The noise of an image comes from its own seed and is drawn on the CPU, so that neither the batch size nor
    the device changes it.
    """
    return in_batches(partial(run_pipeline, pipeline), prompts, seeds, guidance_scale, steps, batch_size)


def in_batches(
    draw: DrawBatch,
    prompts: Sequence[str],
    seeds: Sequence[int],
    guidance_scale: float,
    steps: int,
    batch_size: int,
) -> np.ndarray:
    """What `draw` draws batch by batch, each image from its own seed, as uint8 [N, H, W, 3]."""
    if len(prompts) != len(seeds):
        raise InputError(f"seeds: found {len(seeds)} for {len(prompts)} prompts, expected one each")
    images = []
    for first in range(0, len(prompts), batch_size):
        batch = slice(first, first + batch_size)
        noise = [torch.Generator().manual_seed(int(seed)) for seed in seeds[batch]]
        images.append(draw(list(prompts[batch]), noise, guidance_scale, steps))
    return (np.concatenate(images) * 255).round().astype(np.uint8)


def run_pipeline(
    pipeline: StableDiffusionPipeline,
    prompts: list[str],
    noise: list[torch.Generator],
    guidance_scale: float,
    steps: int,
    latents: Tensor | None = None,
) -> np.ndarray:
    """One batch, float [N, H, W, 3] in 0..1; `latents` replace the noise that sampling starts from."""
    return pipeline(
        prompts,
        generator=noise,
        guidance_scale=guidance_scale,
        num_inference_steps=steps,
        latents=latents,
        output_type="np",
    ).images


def resized(images: np.ndarray, size: int | None) -> np.ndarray:
    """Images at `size` x `size` pixels, by antialiased bicubic interpolation; None changes nothing."""
    if size is None:
        return images
    small = [Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC) for image in images]
    return np.stack([np.asarray(image) for image in small])
