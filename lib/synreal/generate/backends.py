"""Generators behind one protocol: prompts, seeds, guidance and steps in, uint8 images out."""

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, Protocol, TypeVar

import numpy as np
import yaml
from diffusers import DDIMScheduler, StableDiffusionPipeline
from pydantic import BaseModel, TypeAdapter, ValidationError
from safetensors.torch import load_file

from synreal.errors import InputError
from synreal.generate.batches import resized, sample_images
from synreal.generate.loading import load_pipeline

SETTINGS_FILE = "generator.yaml"
CHANGED_WEIGHTS = "unet.safetensors"
# What decides the images; read-me files and pictures beside the weights do not.
_HASHED = {".json", ".safetensors", ".bin", ".model", ".txt", ".yaml"}

# (prompts, seeds, guidance scale, steps) to images uint8 [N, H, W, 3]
Draw = Callable[[Sequence[str], Sequence[int], float, int], np.ndarray]
Kind = TypeVar("Kind")


class Generator(Protocol):
    """Something that draws images of prompts; small to send to another process, where it is loaded."""

    @property
    def name(self) -> str:
        """What image sets say they were drawn with."""

    def fingerprint(self) -> str:
        """sha256 of the weights and of the settings that decide the images."""

    def load(self) -> Draw:
        """The models in memory, on the GPU where there is one."""


class Backend(BaseModel, frozen=True, extra="forbid"):
    """What all generators share: a folder, whose name is theirs. Other paths are relative to it."""

    folder: Path
    batch_size: int = 128  # limited by memory; images do not depend on it

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    @property
    def folders(self) -> tuple[Path, ...]:
        """Every folder that something is loaded from."""
        return (self.folder,)

    def fingerprint(self) -> str:
        """See `Generator`; where the folder lies does not count. Raises InputError when a folder is empty."""
        settings = self.model_dump_json(exclude={"folder", "batch_size"}, exclude_defaults=True)
        digest = hashlib.sha256(settings.encode())
        for folder in self.folders:
            for path in _files(folder):
                digest.update(path.relative_to(folder).as_posix().encode())
                with path.open("rb") as stream:
                    digest.update(hashlib.file_digest(stream, "sha256").digest())
        return digest.hexdigest()


class StableDiffusion(Backend, frozen=True):
    """A Stable Diffusion pipeline in diffusers' format: SD v1.5, SD v2 or the world's own.

    P1 draws with `scheduler="ddim"`, 50 steps, and keeps `size=256` of 512 pixels (sec. 3, Appendix A).
    With a `base`, `folder` holds only what differs from the pipeline there: the denoiser's changed weights
    and a scheduler.
    """

    kind: Literal["stable-diffusion"] = "stable-diffusion"
    scheduler: Literal["own", "ddim"] = (
        "own"  # ddim: deterministic, with the noise levels of the folder's own
    )
    size: int | None = None  # pixels at which images are kept; None: as they are drawn
    base: Path | None = None
    base_weights: str | None = None  # fingerprint of the base that the changes were trained for

    @property
    def folders(self) -> tuple[Path, ...]:
        return (self.folder,) if self.base is None else (self.folder, self.folder / self.base)

    def load(self) -> Draw:
        """Raises InputError when weights are missing, or when `base` is not what `folder` was trained for."""
        draw = partial(sample_images, self.pipeline(), batch_size=self.batch_size)
        return lambda *request: resized(draw(*request), self.size)

    def pipeline(self, device: str | None = None) -> StableDiffusionPipeline:
        """The loaded pipeline, on the GPU where there is one unless said otherwise; raises as `load`."""
        pipeline = load_pipeline(self.folders[-1], device)
        if self.base is not None:
            check_base(self.folder, StableDiffusion(folder=self.folder / self.base), self.base_weights)
            _change(pipeline, self.folder)
        if self.scheduler == "ddim":
            pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
        return pipeline


def open_as(kinds: TypeAdapter[Kind], folder: str | Path) -> Kind:
    """The generator in a folder, one of `kinds`: a plain Stable Diffusion pipeline where no settings lie."""
    path = Path(folder) / SETTINGS_FILE
    found = yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else {}
    if not isinstance(found, dict):
        raise InputError(f"{path}: expected settings such as `kind: stable-diffusion`, found {found!r}")
    try:
        return kinds.validate_python({"kind": "stable-diffusion", **found, "folder": folder})
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, f['loc'])) or 'kind'}: {f['msg']}" for f in error.errors()]
        raise InputError(f"{path}: {'; '.join(faults)}") from error


def check_base(folder: Path, base: Backend, expected: str | None) -> None:
    """Refuse a base that was retrained since `folder` was trained for it."""
    if expected is not None and base.fingerprint() != expected:
        raise InputError(
            f"{folder}: was trained for other weights than {base.folder} holds; train it again for these, or "
            "restore those"
        )


def _files(folder: Path) -> list[Path]:
    files = sorted(path for path in folder.rglob("*") if path.suffix in _HASHED)
    if not files:
        raise InputError(
            f"{folder}: holds no weights; expected a generator there, see synreal.generate.backends"
        )
    return files


def _change(pipeline: StableDiffusionPipeline, folder: Path) -> None:
    """Give the pipeline the scheduler and the changed weights that lie in `folder`."""
    changed, unet = load_file(folder / CHANGED_WEIGHTS), pipeline.unet
    if foreign := changed.keys() - unet.state_dict().keys():
        raise InputError(
            f"{folder / CHANGED_WEIGHTS}: the base has no {sorted(foreign)[0]}; name another base"
        )
    unet.load_state_dict(changed, strict=False)
    pipeline.scheduler = type(pipeline.scheduler).from_pretrained(
        folder, subfolder="scheduler", local_files_only=True
    )
