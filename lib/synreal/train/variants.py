"""The other generators of the zoo: they differ from the first as those of P1's study F3 differ (sec. 3).

The first predicts velocity, as SD v2 does. `generator-epsilon` predicts noise, as SD v1.5 does;
`generator-sing` puts SingDiffusion's initial step before it; `generator-cascade` draws pixels and enlarges
them, as DeepFloyd IF does. A finished one is skipped, an interrupted one goes on.
"""

from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from synreal.generate.backends import StableDiffusion
from synreal.generate.cascade import new_cascade, save_cascade
from synreal.generate.loading import load_pipeline
from synreal.generate.pipeline import epsilon_pipeline, save_epsilon
from synreal.generate.sample import open_generator
from synreal.generate.singdiffusion import new_initial_step, save_initial_step
from synreal.train.generator import (
    EPSILON,
    train_denoiser,
    train_initial_step,
    train_pixels,
    train_upscaler,
)

Pool = Callable[[], tuple[Tensor, list[str]]]  # images uint8 [N, 32, 32, 3] and their captions


def train_epsilon_and_sing(zoo: Path, work: Path, pool: Pool) -> None:
    """The noise-predicting generator, from the weights of the first, and the initial step before it."""
    _make(zoo / "generator-epsilon", lambda out: _epsilon(zoo, work, pool, out))
    _make(zoo / "generator-sing", lambda out: _sing(zoo, work, pool, out))


def train_cascade(zoo: Path, work: Path, pool: Pool) -> None:
    """The cascade in pixels, with the tokenizer of the first generator."""
    _make(zoo / "generator-cascade", lambda out: _cascade(zoo, work, pool, out))


def _epsilon(zoo: Path, work: Path, pool: Pool, out: Path) -> None:
    pipeline = epsilon_pipeline(load_pipeline(zoo / "generator", "cpu"))
    train_denoiser(pipeline, *pool(), EPSILON, work / "epsilon")
    save_epsilon(pipeline, out, "../generator")


def _sing(zoo: Path, work: Path, pool: Pool, out: Path) -> None:
    generator = open_generator(zoo / "generator-epsilon")
    assert isinstance(generator, StableDiffusion)  # as `save_epsilon` wrote it
    pipeline = generator.pipeline("cpu")
    initial = new_initial_step(pipeline)
    train_initial_step(initial, pipeline, *pool(), folder=work / "initial-step")
    save_initial_step(initial, out, "../generator-epsilon")


def _cascade(zoo: Path, work: Path, pool: Pool, out: Path) -> None:
    images, texts = pool()
    base, upscaler = new_cascade(load_pipeline(zoo / "generator", "cpu").tokenizer)
    train_pixels(base, images, texts, folder=work / "pixels")
    train_upscaler(upscaler, base, images, texts, folder=work / "upscaler")
    save_cascade(base, upscaler, out)


def _make(folder: Path, write: Callable[[Path], None]) -> None:
    """The folder, which appears under its name only when it is complete."""
    if folder.exists():
        return
    partial = folder.with_name(f".{folder.name}")  # beside it, so that paths to its neighbours hold
    partial.mkdir(exist_ok=True)
    write(partial)
    partial.replace(folder)
