"""Sampling with a seed per image, so that an image does not depend on its neighbours in a batch."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, concatenate_datasets
from diffusers import StableDiffusionPipeline
from tqdm.auto import tqdm

from synreal.data.imageset import from_arrays
from synreal.errors import InputError


def load_pipeline(folder: str | Path) -> StableDiffusionPipeline:
    """A Stable-Diffusion-style pipeline saved in diffusers' format; never touches the network.

    Raises InputError when `folder` holds no pipeline.
    """
    if not (Path(folder) / "model_index.json").exists():
        raise InputError(
            f"{folder}: no model_index.json; expected a folder written by diffusers' save_pretrained"
        )
    pipeline = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.unet.to(memory_format=torch.channels_last)  # a quarter faster on CPU
    return pipeline


def sample_images(
    pipeline: StableDiffusionPipeline,
    prompts: Sequence[str],
    seeds: Sequence[int],
    guidance_scale: float = 2.0,
    steps: int = 12,
    batch_size: int = 128,
    progress: bool = True,
) -> np.ndarray:
    """One image per prompt, uint8 [N, H, W, 3].

    The noise of an image comes from its own seed, drawn on the CPU, so that neither the batch size nor the
    device changes it. Classifier-free guidance as in Ho and Salimans 2021; P1's default scale is 2 (sec. 3, F1).
    """
    if len(prompts) != len(seeds):
        raise InputError(f"seeds: found {len(seeds)} for {len(prompts)} prompts, expected one each")
    images = []
    for first in tqdm(range(0, len(prompts), batch_size), desc="sample", disable=not progress):
        images.append(
            pipeline(
                list(prompts[first : first + batch_size]),
                generator=[torch.Generator().manual_seed(int(s)) for s in seeds[first : first + batch_size]],
                guidance_scale=guidance_scale,
                num_inference_steps=steps,
                output_type="np",
            ).images
        )
    return (np.concatenate(images) * 255).round().astype(np.uint8)


def sample_set(
    folder: Path,
    pipeline: StableDiffusionPipeline,
    prompts: Sequence[str],
    labels: Sequence[int],
    class_names: Sequence[str],
    generator: str,
    guidance_scale: float = 2.0,
    steps: int = 12,
    seed: int = 0,
    shard: int = 2000,
) -> Dataset:
    """A generated image set with provenance, written to `folder` shard by shard.

    Image i has seed `seed * 2**32 + i`. A shard that exists is not sampled again, so an interrupted run goes
    on and a deleted shard is made anew; delete the folder to sample with other settings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shards = []
    for first in tqdm(range(0, len(prompts), shard), desc="shards"):
        rows = range(first, min(first + shard, len(prompts)))
        path = folder / f"{first:07d}.parquet"
        if not path.exists():
            seeds = [(seed << 32) + i for i in rows]
            texts = [prompts[i] for i in rows]
            images = sample_images(pipeline, texts, seeds, guidance_scale, steps, progress=False)
            columns = {
                "id": [f"{generator}-{s}" for s in seeds],
                "source": ["synthetic"] * len(rows),
                "prompt": texts,
                "seed": seeds,
                "generator": [generator] * len(rows),
                "guidance_scale": [guidance_scale] * len(rows),
            }
            partial = path.with_suffix(".partial")
            from_arrays(images, [labels[i] for i in rows], class_names, columns).to_parquet(partial)
            partial.replace(path)
        shards.append(Dataset.from_parquet(str(path)))
    return concatenate_datasets(shards)
