"""Tuned checkpoints and their answers, each computed at most once: what studies of RealTune are made of."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from datasets import Dataset

from synreal.data.fingerprint import image_set_hash
from synreal.data.worlds import World
from synreal.evaluate.examine import examine
from synreal.evaluate.predictions import Predictions
from synreal.models.card import CARD_FILE
from synreal.models.clip import ZeroShotClassifier
from synreal.models.load import load_classifier, save_checkpoint
from synreal.models.tower import tower_from_zero_shot
from synreal.paths import cache_dir
from synreal.train.methods import interpolate
from synreal.train.realtune import tune_checkpoint
from synreal.train.recipes import Recipe
from synreal.train.tune import Method
from synreal.workers import compute


@dataclass(frozen=True)
class Tuning:
    """One tuning: of which checkpoint, on which images, and how. The seed is the recipe's."""

    model: str  # what tables call it; runs of one model differ in the seed alone
    checkpoint: str
    images: Dataset
    recipe: Recipe
    method: Method = "full"

    @property
    def folder(self) -> Path:
        """Where the tuned checkpoint is kept: in the cache, under the hash of all it depends on."""
        weights = load_classifier(self.checkpoint).model_hash
        parts = [weights, image_set_hash(self.images), asdict(self.recipe), self.method]
        key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
        return cache_dir() / "tuned" / key


def tune_and_examine(tuning: Tuning, worlds: Sequence[World], device: str = "cpu") -> list[Predictions]:
    """The answers of the tuned checkpoint on each world; raises as `tune_checkpoint`."""
    folder = tuning.folder
    tune_checkpoint(tuning.checkpoint, tuning.images, folder, tuning.method, tuning.recipe)
    return [replace(examine(str(folder), world, device=device), model=tuning.model) for world in worlds]


def tune_all(
    tunings: Sequence[Tuning], worlds: Sequence[World], workers: int = 1, device: str = "cpu"
) -> list[dict[str, list[Predictions]]]:
    """For each world, the answers by model, one per tuning in the order given; `workers` tunings at once."""
    jobs = [(tuning, worlds, device) for tuning in tunings]
    return _by_world(compute(tune_and_examine, jobs, workers), worlds)


def interpolated(tuning: Tuning, alpha: float) -> Path:
    """The checkpoint `alpha` of the way from before a finished tuning to after it (WiSE-FT).

    A zero-shot CLIP that tuning made an image tower with a linear head begins as such a tower.
    """
    out = tuning.folder / f"alpha-{alpha:g}"
    if not (out / CARD_FILE).exists():
        before, after = load_classifier(tuning.checkpoint), load_classifier(str(tuning.folder))
        start = before.module
        if isinstance(before, ZeroShotClassifier) and after.card.head == "linear":
            start = tower_from_zero_shot(before)
        weights = interpolate(start.state_dict(), after.module.state_dict(), alpha)
        after.module.load_state_dict(weights)
        save_checkpoint(out, after.module, after.card)
    return out


def examine_path(
    tunings: Sequence[Tuning],
    alphas: Sequence[float],
    worlds: Sequence[World],
    workers: int = 1,
    device: str = "cpu",
) -> list[dict[str, list[Predictions]]]:
    """As `tune_all`, of the checkpoints along the way, called "<model>, alpha <alpha>"."""
    jobs = [(tuning, alpha, worlds, device) for alpha in alphas for tuning in tunings]
    return _by_world(compute(_examine_between, jobs, workers), worlds)


def _examine_between(tuning: Tuning, alpha: float, worlds: Sequence[World], device: str) -> list[Predictions]:
    checkpoint, model = str(interpolated(tuning, alpha)), f"{tuning.model}, alpha {alpha:g}"
    return [replace(examine(checkpoint, world, device=device), model=model) for world in worlds]


def _by_world(
    found: Sequence[list[Predictions]], worlds: Sequence[World]
) -> list[dict[str, list[Predictions]]]:
    by_world: list[dict[str, list[Predictions]]] = [{} for _ in worlds]
    for answers in found:
        for models, predictions in zip(by_world, answers, strict=True):
            models.setdefault(predictions.model, []).append(predictions)
    return by_world
