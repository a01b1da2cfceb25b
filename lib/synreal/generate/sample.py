"""Drawing generated image sets: shard by shard, with a seed per image and a record of what was drawn."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import pyarrow.parquet as pq
from datasets import Dataset
from joblib import delayed
from pydantic import Field, TypeAdapter
from tqdm.auto import tqdm

from synreal.data.imageset import from_arrays
from synreal.errors import InputError
from synreal.generate.backends import Generator, StableDiffusion, open_as
from synreal.generate.cascade import Cascade
from synreal.generate.singdiffusion import SingDiffusion
from synreal.workers import side_by_side

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
    partial = _shard_path(folder, first).with_suffix(".partial")
    from_arrays(images, labels, class_names, columns).to_parquet(partial)
    partial.replace(_shard_path(folder, first))


def _shard_path(folder: Path, first: int) -> Path:
    return folder / f"{first:07d}.parquet"
