"""SDEdit: real images taken part of the way to what a generator would draw, so that its artefacts enter.

Source: Meng et al. 2022; P2 Figure 4 ("strength" is its noise parameter gamma).
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from diffusers import StableDiffusionImg2ImgPipeline

from synreal.data.imageset import class_names, from_arrays, to_arrays
from synreal.errors import InputError
from synreal.generate.batches import resized
from synreal.generate.loading import load_diffusers
from synreal.generate.sample import Sampling

STRENGTHS = (0.2, 0.4, 0.6, 0.8)  # P2 Fig. 4
PROMPT = "a photo of a {}"  # the class alone: P2 prompts with the class name


def perturb(
    pipeline: StableDiffusionImg2ImgPipeline,
    images: np.ndarray,
    prompts: Sequence[str],
    seeds: Sequence[int],
    strength: float,
    guidance_scale: float = 2.0,
    steps: int = 10,
    batch_size: int = 128,
) -> np.ndarray:
    """The images noised to `strength` of the way and denoised again, uint8 [N, H, W, 3].

    images: uint8 [N, H, W, 3]; they are brought to the pipeline's own size. Of `steps` only the share
    `strength` is taken. An image depends on its own prompt and seed, not on its neighbours.
    Raises InputError for other lengths, and for a strength that leaves no step or exceeds 1.
    """
    if not len(images) == len(prompts) == len(seeds):
        raise InputError(
            f"perturb: found {len(images)} images, {len(prompts)} prompts, {len(seeds)} seeds; one of each"
        )
    refuse_strength(strength, steps)
    images = _at_size_of(pipeline, images)
    done = []
    for first in range(0, len(images), batch_size):
        batch = slice(first, first + batch_size)
        output = pipeline(
            list(prompts[batch]),
            image=images[batch].astype(np.float32) / 255,
            strength=strength,
            generator=[torch.Generator().manual_seed(int(seed)) for seed in seeds[batch]],
            guidance_scale=guidance_scale,
            num_inference_steps=steps,
            output_type="np",
        )
        done.append(output.images)
    return (np.concatenate(done) * 255).round().astype(np.uint8)


def refuse_strength(strength: float, steps: int) -> None:
    """Raise InputError for a strength that leaves no step of the sampler's `steps`, or exceeds 1."""
    if not 0 < strength <= 1 or int(steps * strength) < 1:
        raise InputError(
            f"strength: found {strength} of {steps} steps, expected above 0 and up to 1, and one step or more"
        )


def perturbed_set(images: Dataset, generator: str | Path, strength: float, sampling: Sampling) -> Dataset:
    """An image set perturbed with the pipeline in a folder; its prompts are the classes.

    Columns besides the contract's: `perturbed` (id of the image it was), strength, prompt, seed, generator
    and guidance_scale. Image i has the seed `sampling.seed * 2**32 + i`.
    """
    pipeline = load_diffusers(StableDiffusionImg2ImgPipeline, generator)
    arrays, labels = to_arrays(images, _size(pipeline))
    names = class_names(images)
    prompts = [PROMPT.format(names[label]) for label in labels]
    seeds = [(sampling.seed << 32) + row for row in range(len(images))]
    drawn = perturb(pipeline, arrays, prompts, seeds, strength, sampling.guidance_scale, sampling.steps)
    count = len(images)
    columns = {
        "id": [f"{key}-sdedit-{strength:g}" for key in images["id"]],
        "source": ["perturbed"] * count,
        "perturbed": list(images["id"]),
        "strength": [strength] * count,
        "prompt": prompts,
        "seed": seeds,
        "generator": [Path(generator).resolve().name] * count,
        "guidance_scale": [sampling.guidance_scale] * count,
    }
    return from_arrays(drawn, labels, names, columns)


def _at_size_of(pipeline: StableDiffusionImg2ImgPipeline, images: np.ndarray) -> np.ndarray:
    size = _size(pipeline)
    return images if images.shape[1:3] == (size, size) else resized(images, size)


def _size(pipeline: StableDiffusionImg2ImgPipeline) -> int:
    """Pixels of a side that the U-Net was trained at."""
    return pipeline.unet.config.sample_size * pipeline.vae_scale_factor
