"""Sampling with a seed per image, so that an image does not depend on its neighbours in a batch."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pyarrow.parquet as pq
import torch
import transformers
from datasets import Dataset
from diffusers import StableDiffusionPipeline
from joblib import Parallel, delayed
from tqdm.auto import tqdm

from synreal.data.imageset import from_arrays
from synreal.errors import InputError
from synreal.generate.autoencoder import PatchAutoencoder  # noqa: F401  diffusers loads it only once imported


@dataclass(frozen=True)
class Sampling:
    """How images are drawn; P1's default guidance is 2 (sec. 3, F1)."""

    guidance_scale: float = 2.0  # classifier-free guidance (Ho and Salimans 2021); 1 switches it off
    steps: int = 10  # of the pipeline's own scheduler
    seed: int = 0  # image i is drawn from seed * 2**32 + i


def load_pipeline(folder: str | Path) -> StableDiffusionPipeline:
    """A Stable-Diffusion-style pipeline saved in diffusers' format; never touches the network.

    Raises InputError when `folder` holds no pipeline.
    """
    if not (Path(folder) / "model_index.json").exists():
        raise InputError(f"{folder}: no model_index.json; expected a folder saved by a diffusers pipeline")
    with _quiet():
        pipeline = StableDiffusionPipeline.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype=torch.float32, safety_checker=None
        )
    pipeline.set_progress_bar_config(disable=True)
    pipeline.unet.to(memory_format=torch.channels_last)  # a quarter faster on CPU
    return pipeline


@contextmanager
def _quiet() -> Iterator[None]:
    """No loading bars, and no warning that the autoencoder is not diffusers' own class."""
    level = diffusers.logging.get_verbosity()
    diffusers.logging.set_verbosity_error()
    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()
    try:
        yield
    finally:
        diffusers.logging.set_verbosity(level)
        for library in (diffusers, transformers):
            library.utils.logging.enable_progress_bar()


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
    if len(prompts) != len(seeds):
        raise InputError(f"seeds: found {len(seeds)} for {len(prompts)} prompts, expected one each")
    images = []
    for first in range(0, len(prompts), batch_size):
        batch = slice(first, first + batch_size)
        images.append(
            pipeline(
                list(prompts[batch]),
                generator=[torch.Generator().manual_seed(int(seed)) for seed in seeds[batch]],
                guidance_scale=guidance_scale,
                num_inference_steps=steps,
                output_type="np",
            ).images
        )
    return (np.concatenate(images) * 255).round().astype(np.uint8)


def sample_set(
    folder: Path,
    generator: Path,
    prompts: Sequence[str],
    labels: Sequence[int],
    class_names: Sequence[str],
    sampling: Sampling = Sampling(),
    shard: int = 1000,
    workers: int = 1,
) -> Dataset:
    """A generated image set with provenance, drawn from the pipeline in `generator` and kept in `folder`.

    It is written shard by shard: a shard that exists is not drawn again, so an interrupted run goes on, and a
    deleted shard is made anew. `workers` processes draw shards side by side.
    Raises InputError when `folder` holds images drawn with other prompts or settings, or other shards.
    """
    _claim(folder, generator, prompts, sampling)
    _check_shards(folder, len(prompts), shard)
    starts = [s for s in range(0, len(prompts), shard) if not _shard_path(folder, s).exists()]
    cuts = {s: slice(s, s + shard) for s in starts}
    jobs = [
        delayed(_draw_shard)(folder, generator, s, prompts[cut], labels[cut], class_names, sampling)
        for s, cut in cuts.items()
    ]
    done = Parallel(n_jobs=workers, return_as="generator_unordered")(jobs)
    list(tqdm(done, desc="sample", total=len(starts)))
    paths = [str(_shard_path(folder, s)) for s in range(0, len(prompts), shard)]
    return Dataset.from_parquet(paths, cache_dir=str(folder / "arrow"))


def _claim(folder: Path, generator: Path, prompts: Sequence[str], sampling: Sampling) -> None:
    """Write down what the folder is for, or refuse it when it is for something else."""
    digest = hashlib.sha256("\n".join(prompts).encode()).hexdigest()
    settings = {"generator": generator.name, **asdict(sampling), "prompts": digest}
    record = folder / "settings.json"
    if record.exists() and (found := json.loads(record.read_text())) != settings:
        changed = [key for key in settings if found.get(key) != settings[key]]
        raise InputError(
            f"{folder}: holds images drawn with other {', '.join(changed)}; name another folder or delete it"
        )
    folder.mkdir(parents=True, exist_ok=True)
    record.write_text(json.dumps(settings, indent=1))


def _check_shards(folder: Path, count: int, shard: int) -> None:
    for first in range(0, count, shard):
        path, expected = _shard_path(folder, first), min(shard, count - first)
        if path.exists() and (found := pq.read_metadata(path).num_rows) != expected:
            raise InputError(
                f"{path}: holds {found} images, expected {expected}; the folder was drawn with another shard "
                "size: give that one, or delete the folder"
            )


def _draw_shard(
    folder: Path,
    generator: Path,
    first: int,
    prompts: Sequence[str],
    labels: Sequence[int],
    class_names: Sequence[str],
    sampling: Sampling,
) -> None:
    seeds = [(sampling.seed << 32) + first + i for i in range(len(prompts))]
    pipeline = load_pipeline(generator)
    images = sample_images(pipeline, prompts, seeds, sampling.guidance_scale, sampling.steps)
    columns: dict[str, Sequence[Any]] = {
        "id": [f"{generator.name}-{seed}" for seed in seeds],
        "source": ["synthetic"] * len(prompts),
        "prompt": list(prompts),
        "seed": seeds,
        "generator": [generator.name] * len(prompts),
        "guidance_scale": [sampling.guidance_scale] * len(prompts),
    }
    partial = _shard_path(folder, first).with_suffix(".partial")
    from_arrays(images, labels, class_names, columns).to_parquet(partial)
    partial.replace(_shard_path(folder, first))


def _shard_path(folder: Path, first: int) -> Path:
    return folder / f"{first:07d}.parquet"
