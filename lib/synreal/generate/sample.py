"""Synthetic image sets: drawn from prompts, by class, or as perturbed copies of real images."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow.parquet as pq
import torch
from datasets import Dataset
from diffusers import StableDiffusionImg2ImgPipeline
from joblib import delayed
from pydantic import Field, TypeAdapter
from tqdm.auto import tqdm

from synreal.cache import atomic, compute, read_record, side_by_side, write_text
from synreal.data.decode import from_arrays, image_set_hash, to_arrays
from synreal.data.imageset import class_names, load_image_set
from synreal.data.worlds import World
from synreal.errors import InputError
from synreal.generate.backends import (
    Generator,
    StableDiffusion,
    load_diffusers,
    need_pipeline,
    open_as,
    resized,
)
from synreal.generate.cascade import Cascade
from synreal.generate.prompts import Style, make_prompts
from synreal.generate.singdiffusion import SingDiffusion
from synreal.paths import cache_dir, located

_ANY: TypeAdapter = TypeAdapter(
    Annotated[StableDiffusion | SingDiffusion | Cascade, Field(discriminator="kind")]
)


@dataclass(frozen=True)
class Sampling:
    """How images are drawn; P1's default guidance is 2 (sec. 3, F1)."""

    guidance_scale: float = 2.0  # classifier-free guidance (Ho and Salimans 2021); 1 switches it off
    steps: int = 10  # of the pipeline's own scheduler
    seed: int = 0  # image i is drawn from seed * 2**32 + i


def open_generator(folder: str | Path) -> Generator:
    """The generator in a folder, not loaded yet: a Stable Diffusion pipeline in diffusers' format, or what
    `generator.yaml` there says.

    Its `kind` is stable-diffusion, singdiffusion or cascade; the other entries are the fields of
    `StableDiffusion`, `SingDiffusion` or `Cascade`. Raises InputError for any that they do not have.
    """
    return open_as(_ANY, folder)


def sample_set(
    folder: Path,
    generator: str | Path | Generator,
    prompts: Sequence[str],
    labels: Sequence[int],
    class_names: Sequence[str],
    sampling: Sampling = Sampling(),
    shard: int = 1000,
    workers: int = 1,
) -> Dataset:
    """A generated image set with provenance, drawn by `generator` (or the one in that folder), in `folder`.

    It is written shard by shard: a shard that exists is not drawn again, so an interrupted run goes on, and a
    deleted shard is made anew. `workers` processes draw shards side by side.
    Raises InputError when `folder` holds images drawn with other weights, prompts or settings, or other
    shards.
    """
    if isinstance(generator, (str, Path)):
        generator = open_generator(generator)
    _claim(folder, generator, prompts, sampling)
    _check_shards(folder, len(prompts), shard)
    starts = [s for s in range(0, len(prompts), shard) if not _shard_path(folder, s).exists()]
    cuts = {s: slice(s, s + shard) for s in starts}
    jobs = [
        delayed(_draw_shard)(folder, generator, s, prompts[cut], labels[cut], class_names, sampling)
        for s, cut in cuts.items()
    ]
    done = side_by_side(workers, return_as="generator_unordered")(jobs)
    list(tqdm(done, desc="sample", total=len(starts)))
    paths = [str(_shard_path(folder, s)) for s in range(0, len(prompts), shard)]
    return Dataset.from_parquet(paths, cache_dir=str(folder / "arrow"))


def _claim(folder: Path, generator: Generator, prompts: Sequence[str], sampling: Sampling) -> None:
    """Write down what the folder is for, or refuse it when it is for something else."""
    digest = hashlib.sha256("\n".join(prompts).encode()).hexdigest()
    drawn_by = {"generator": generator.name, "weights": generator.fingerprint()}
    settings = {**drawn_by, **asdict(sampling), "prompts": digest}
    record = folder / "settings.json"
    if record.exists() and (found := read_record(record)) != settings:
        changed = [key for key in settings if found.get(key) != settings[key]]
        raise InputError(
            f"{folder}: holds images drawn with other {', '.join(changed)}; name another folder or delete it"
        )
    write_text(record, json.dumps(settings, indent=1))


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
    generator: Generator,
    first: int,
    prompts: Sequence[str],
    labels: Sequence[int],
    class_names: Sequence[str],
    sampling: Sampling,
) -> None:
    seeds = [(sampling.seed << 32) + first + i for i in range(len(prompts))]
    images = generator.load()(prompts, seeds, sampling.guidance_scale, sampling.steps)
    columns: dict[str, Sequence[Any]] = {
        "id": [f"{generator.name}-{seed}" for seed in seeds],
        "source": ["synthetic"] * len(prompts),
        "prompt": list(prompts),
        "seed": seeds,
        "generator": [generator.name] * len(prompts),
        "guidance_scale": [sampling.guidance_scale] * len(prompts),
    }
    with atomic(_shard_path(folder, first)) as partial:
        from_arrays(images, labels, class_names, columns).to_parquet(partial)


def _shard_path(folder: Path, first: int) -> Path:
    return folder / f"{first:07d}.parquet"


# SDEdit: real images taken part of the way to what a generator would draw, so that its artefacts enter.
#
# Source: Meng et al. 2022; P2 Figure 4 ("strength" is its noise parameter gamma).


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


def check_perturbation(generator: str | Path, strengths: Sequence[float], steps: int) -> None:
    """Raise InputError for a generator without pipeline or weights, and strengths it cannot perturb to."""
    open_generator(generator).fingerprint()
    need_pipeline(generator, "Stable Diffusion pipeline")
    if not strengths:
        raise InputError("strengths: found none, expected one or more above 0 and up to 1")
    for strength in strengths:
        refuse_strength(strength, steps)


def perturbed_sets(
    images: Dataset, generator: str | Path, strengths: Sequence[float], sampling: Sampling, workers: int = 1
) -> dict[float, Dataset]:
    """`perturbed_set` by strength, drawn by `workers` processes; each is drawn once and kept in the cache."""
    longest_first = sorted(strengths, reverse=True)
    jobs = [(images, generator, strength, sampling) for strength in longest_first]
    drawn = dict(zip(longest_first, compute(_perturbed_once, jobs, workers), strict=True))
    return {strength: drawn[strength] for strength in strengths}


def _perturbed_once(images: Dataset, generator: str | Path, strength: float, sampling: Sampling) -> Dataset:
    weights = open_generator(generator).fingerprint()[:12]
    settings = f"{strength:g}-{sampling.guidance_scale:g}-{sampling.steps}-{sampling.seed}"
    path = cache_dir() / "perturbed" / f"{image_set_hash(images)}-{weights}-{settings}.parquet"
    if not path.exists():
        drawn = perturbed_set(images, generator, strength, sampling)
        with atomic(path) as partial:
            drawn.to_parquet(partial)
    return load_image_set(path)


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


# The synthetic sets of P1's studies (sec. 3): each of one generator, style of prompt and guidance scale.


SHARD = 60  # images; small enough that several processes share a set of some hundred evenly


def draw_world(
    name: str,
    generator: str | Path,
    captioned: Dataset,
    style: Style,
    sampling: Sampling,
    workers: int = 1,
) -> World:
    """Images that a generator draws for the labels and captions of an image set, kept in the cache.

    generator: its folder, absolute or seen from the repository; variables of the environment are filled in.
    Drawn once for each generator (its weights), prompts and settings, shard by shard; an interrupted run goes
    on. Raises InputError when the set has no captions, and as `open_generator` and `make_prompts`.
    """
    if "caption" not in captioned.column_names:
        raise InputError(
            f"{name}: the prompts need a column caption; add_captions in generate.captioner makes it"
        )
    names, labels = class_names(captioned), captioned["label"][:]
    prompts = make_prompts([names[label] for label in labels], captioned["caption"][:], style)
    opened = open_generator(located(generator))
    parts = [opened.fingerprint(), str(asdict(sampling)), f"{SHARD} a shard", *prompts]
    key = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
    folder = cache_dir() / "drawn" / key
    images = sample_set(folder, opened, prompts, labels, names, sampling, SHARD, workers)
    return World(name, images, None, None)
