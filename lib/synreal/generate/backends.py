"""Diffusion pipelines of diffusers behind one call; how their parts are loaded and batched."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import diffusers
import numpy as np
import torch
import transformers
from diffusers import DDIMScheduler, DiffusionPipeline, StableDiffusionPipeline
from PIL import Image
from pydantic import BaseModel, TypeAdapter, ValidationError
from safetensors.torch import load_file
from torch import Tensor

from synreal.errors import InputError
from synreal.generate import autoencoder  # noqa: F401  diffusers loads its module only once imported
from synreal.strict_yaml import read_yaml

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


# Pipelines of diffusers, loaded from a folder and never from the network.


Pipeline = TypeVar("Pipeline", bound=DiffusionPipeline)


def load_pipeline(folder: str | Path, device: str | None = None) -> StableDiffusionPipeline:
    """A Stable-Diffusion-style pipeline saved in diffusers' format; never touches the network.

    device: the GPU where there is one, unless said otherwise (training starts from the CPU). Weights are in
    half precision on a GPU, in single precision on the CPU.
    Raises InputError when `folder` holds no pipeline.
    """
    return load_diffusers(StableDiffusionPipeline, folder, device)


def need_pipeline(folder: str | Path, kind: str) -> None:
    """Raise InputError when `folder` holds no pipeline in diffusers' format."""
    if not (Path(folder) / "model_index.json").exists():
        raise InputError(
            f"{folder}: no model_index.json; expected a folder saved by a diffusers pipeline. Put there the "
            f"complete repository of a {kind}, with its weights as safetensors"
        )


def load_diffusers(
    kind: type[Pipeline], folder: str | Path, device: str | None = None, **parts: Any
) -> Pipeline:
    """A pipeline of a given class, without safety checker; the rest as `load_pipeline`.

    `parts` replace parts of the pipeline, which are then not read.
    """
    need_pipeline(folder, kind.__name__)
    half = next(Path(folder).glob("unet/*.fp16.safetensors"), None)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        with quiet():
            pipeline = kind.from_pretrained(
                folder,
                local_files_only=True,
                use_safetensors=True,
                variant="fp16" if half else None,
                dtype=torch.float32 if device == "cpu" else torch.float16,
                safety_checker=None,
                **parts,
            )
    except (OSError, ImportError) as error:
        raise InputError(
            f"{folder}: not a complete {kind.__name__}: {error}. Put the missing part there, weights as "
            "safetensors"
        ) from error
    pipeline.set_progress_bar_config(disable=True)
    pipeline.unet.to(memory_format=torch.channels_last)  # a quarter faster on CPU
    return pipeline.to(device)


@contextmanager
def quiet() -> Iterator[None]:
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


# Generators behind one protocol: prompts, seeds, guidance and steps in, uint8 images out.


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
    found = read_yaml(path, "settings of a generator") if path.exists() else {}
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
