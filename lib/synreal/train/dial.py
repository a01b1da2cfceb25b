"""The defect dial turned on training data: one small classifier per defect, dose and seed, then RealTune.

P1 finds defects in synthetic images and in the classifiers that learned from them, and argues from one to
the other (sec. 3); changing the data of its models was beyond its means. Here all trainings of one seed see
the same photographs, labels, backgrounds, first weights and order; only the dosed defect differs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import joblib
import numpy as np

from synreal.data.factors import draw_factors
from synreal.data.scenes import compose_all, scene_arrays
from synreal.data.sprites import CLASS_NAMES
from synreal.errors import InputError
from synreal.evaluate.guard import refuse_shared_pixels
from synreal.generate.rerender import Defects, defective
from synreal.train.kept import kept
from synreal.train.recipes import Recipe
from synreal.train.small import HEAD, Batch, predict_small, train_small
from synreal.train.tune import Tunable, tune

# Chosen on validation scenes.
SCRATCH = Recipe(steps=160, batch_size=64, learning_rate=8e-3, warmup_steps=20)
REALTUNE = Recipe(steps=40, batch_size=64, learning_rate=5e-4, warmup_steps=10)
SPLIT = "train"
FIRST = 40  # scenes whose pixels stand for the renderer's in the key of what is kept


@dataclass(frozen=True)
class Training:
    """One training: on `images` scenes with `defects`, then tuned on `clean` further ones without any.

    Every seed has photographs of its own. Raises InputError for fewer images than classes.
    """

    defects: Defects
    images: int
    clean: int
    seed: int

    def __post_init__(self) -> None:
        for name in ("images", "clean"):
            if getattr(self, name) < len(CLASS_NAMES):
                found = getattr(self, name)
                raise InputError(f"{name}: found {found}, expected {len(CLASS_NAMES)}, one a class, or more")

    @property
    def start(self) -> int:
        return self.seed * (self.images + self.clean)


def dosed_arrays(defects: Defects, count: int, start: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Images (uint8 [count, 32, 32, 3]) with the defects, and the labels that were asked for (int64)."""
    asked = [draw_factors(index, SPLIT) for index in range(start, start + count)]
    shown = [defective(scene, index, SPLIT, defects) for index, scene in enumerate(asked, start)]
    images, _ = compose_all(enumerate(shown, start), SPLIT)
    return images, np.array([scene.label for scene in asked])


def changed_share(name: str, dose: float, count: int) -> float:
    """Which share of the first `count` training scenes, 0 to 1, a defect changes at all."""
    scenes, defects = [draw_factors(index, SPLIT) for index in range(count)], Defects(**{name: dose})
    return float(np.mean([defective(s, index, SPLIT, defects) != s for index, s in enumerate(scenes)]))


def dial_grid(names: Sequence[str], doses: Sequence[float]) -> list[Defects]:
    """No defect, then each one of the names at each dose, one at a time.

    Raises InputError for an unknown name, or a dose that is not above 0.
    """
    known = [field.name for field in fields(Defects)]
    if unknown := [name for name in names if name not in known]:
        raise InputError(f"defects: found {unknown}, expected some of {', '.join(known)}")
    if not doses or min(doses) <= 0:
        raise InputError(f"doses: found {list(doses)}, expected doses above 0 up to 1; 0 is always trained")
    return [Defects(), *(Defects(**{name: dose}) for name in names for dose in doses)]


def turn_dial(
    grid: Sequence[Defects],
    images: int,
    clean: int,
    seeds: int,
    test: np.ndarray,
    recipe: Recipe = SCRATCH,
    workers: int = 2,
) -> dict[Defects, np.ndarray]:
    """Logits float32 [2, seeds, N, classes] by defect, on test images uint8 [N, 32, 32, 3]: trained, tuned.

    Each training is kept in the cache as soon as it is done, under the hashes of what it depends on.
    """
    trainings = [Training(defects, images, clean, seed) for defects in grid for seed in range(seeds)]
    looks = {defects: joblib.hash(dosed_arrays(defects, FIRST)) for defects in grid}
    jobs = [(one, recipe, REALTUNE, test, looks[one.defects]) for one in trainings]
    logits = np.stack(kept(dosed_logits, jobs, workers)).reshape(len(grid), seeds, 2, len(test), -1)
    return dict(zip(grid, logits.swapaxes(1, 2), strict=True))


def dosed_logits(
    training: Training, scratch: Recipe, realtune: Recipe, test: np.ndarray, looks: str
) -> np.ndarray:
    """Logits float32 [2, N, classes] of one training, before and after RealTune.

    `looks`: hash of the first images with these defects, so that a result of another renderer is not reused.
    Raises InputError when a test image is among those that it learns from.
    """
    images, labels = dosed_arrays(training.defects, training.images, training.start)
    clean, truth = scene_arrays(SPLIT, training.clean, start=training.start + training.images)
    refuse_shared_pixels(np.concatenate([images, clean]), test)
    module = train_small(images, labels, len(CLASS_NAMES), replace(scratch, seed=training.seed))
    trained = predict_small(module, test)
    loss = Batch(clean, truth["label"].to_numpy())
    tune(Tunable(module, loss, len(clean), HEAD), "full", replace(realtune, seed=training.seed))
    return np.stack([trained, predict_small(module, test)])
