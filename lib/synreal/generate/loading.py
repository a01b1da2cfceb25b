"""Pipelines of diffusers, loaded from a folder and never from the network."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import diffusers
import torch
import transformers
from diffusers import DiffusionPipeline, StableDiffusionPipeline

from synreal.errors import InputError
from synreal.generate.autoencoder import PatchAutoencoder  # noqa: F401  diffusers loads it only once imported

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
