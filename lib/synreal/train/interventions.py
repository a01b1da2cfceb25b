"""Small trainings on mixtures and on images with one defect at a chosen strength."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import joblib
import numpy as np

from synreal.cache import kept
from synreal.data.factors import draw_factors
from synreal.data.overlap import refuse_shared_pixels
from synreal.data.scenes import compose_all, scene_arrays
from synreal.data.sprites import CLASS_NAMES
from synreal.errors import InputError
from synreal.generate.rerender import Defects, defective
from synreal.train.experiment import HEAD, Batch, predict_small, train_small
from synreal.train.finetune import Tunable, tune
from synreal.train.recipes import Recipe

Arrays = tuple[np.ndarray, np.ndarray]  # images uint8 [N, H, W, 3] and labels int64 [N]


@dataclass(frozen=True)
class Mix:
    """How many images of each kind one classifier learns from."""

    real: int
    synthetic: int


def train_mixes(
    mixes: Sequence[Mix],
    real: Arrays,
    synthetic: Arrays,
    classes: int,
    recipe: Recipe,
    seeds: int,
    test: np.ndarray,
    workers: int = 2,
) -> np.ndarray:
    """Logits float32 [mixes, seeds, N, classes] on test images, after the recipe's steps for every mix.

    A seed draws its images, and the smaller mixes of one seed are parts of the larger ones. Results are kept
    in the cache. Raises InputError for a mix that the pools cannot give, and for a test image among them.
    """
    for mix in mixes:
        _check(mix, len(real[1]), len(synthetic[1]))
    for images, _ in (real, synthetic):
        refuse_shared_pixels(images, test)
    jobs = [
        (*_drawn(mix, real, synthetic, seed), classes, replace(recipe, seed=seed), test)
        for mix in mixes
        for seed in range(seeds)
    ]
    return np.stack(kept(mix_logits, jobs, workers)).reshape(len(mixes), seeds, len(test), classes)


def mix_logits(
    images: np.ndarray, labels: np.ndarray, classes: int, recipe: Recipe, test: np.ndarray
) -> np.ndarray:
    """Logits float32 [N, classes] of one training from scratch."""
    return predict_small(train_small(images, labels, classes, recipe), test)


def _drawn(mix: Mix, real: Arrays, synthetic: Arrays, seed: int) -> Arrays:
    # One order for each pool and seed, of which a mix takes the head: mixes of a seed are nested.
    orders = [
        np.random.default_rng([seed, kind]).permutation(len(p[1])) for kind, p in enumerate((real, synthetic))
    ]
    rows = [order[:count] for order, count in zip(orders, (mix.real, mix.synthetic), strict=True)]
    images, labels = (
        np.concatenate([pool[part][chosen] for pool, chosen in zip((real, synthetic), rows, strict=True)])
        for part in (0, 1)
    )
    return images, labels


def _check(mix: Mix, real: int, synthetic: int) -> None:
    for name, count, held in (("real", mix.real, real), ("synthetic", mix.synthetic, synthetic)):
        if not 0 <= count <= held:
            raise InputError(f"mixes: found {count} {name} images, expected 0 to the {held} that there are")
    if not mix.real + mix.synthetic:
        raise InputError("mixes: found one without any image; give it some of either kind")


# Interventions on training data: one small classifier per defect, severity and seed, then RealTune.
#
# P1 finds defects in synthetic images and in the classifiers that learned from them, and argues from one to
# the other (sec. 3); changing the data of its models was beyond its means. Here all trainings of one seed see
# the same photographs, labels, backgrounds, first weights and order; only the defect differs.


# Chosen on validation scenes.
SCRATCH = Recipe(steps=160, batch_size=64, learning_rate=8e-3, warmup_steps=20)
REALTUNE = Recipe(steps=40, batch_size=64, learning_rate=5e-4, warmup_steps=10)
STAGES = ("from scratch", "RealTune")
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


def intervened_arrays(defects: Defects, count: int, start: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Images (uint8 [count, 32, 32, 3]) with the defects, and the labels that were asked for (int64)."""
    asked = [draw_factors(index, SPLIT) for index in range(start, start + count)]
    shown = [defective(scene, index, SPLIT, defects) for index, scene in enumerate(asked, start)]
    images, _ = compose_all(enumerate(shown, start), SPLIT)
    return images, np.array([scene.label for scene in asked])


def intervention_grid(names: Sequence[str], severities: Sequence[float]) -> list[Defects]:
    """No defect, then each one of the names at each severity, one at a time.

    Raises InputError for an unknown name, or a severity that is not above 0.
    """
    known = [field.name for field in fields(Defects)]
    if unknown := [name for name in names if name not in known]:
        raise InputError(f"defects: found {unknown}, expected some of {', '.join(known)}")
    if not severities or min(severities) <= 0:
        raise InputError(
            f"severities: found {list(severities)}, expected some above 0 up to 1; 0 is always trained"
        )
    return [Defects(), *(Defects(**{name: severity}) for name in names for severity in severities)]


def train_interventions(
    grid: Sequence[Defects],
    images: int,
    clean: int,
    seeds: int,
    test: np.ndarray,
    recipe: Recipe = SCRATCH,
    workers: int = 2,
) -> dict[tuple[Defects, str], np.ndarray]:
    """Logits float32 [seeds, N, classes] by defect and one of STAGES, on test images uint8 [N, 32, 32, 3].

    Each training is kept in the cache as soon as it is done, under the hashes of what it depends on.
    Raises InputError for fewer than two seeds.
    """
    if seeds < 2:
        raise InputError(f"seeds: found {seeds}, expected 2 or more for an interval, better 3")
    trainings = [Training(defects, images, clean, seed) for defects in grid for seed in range(seeds)]
    looks = {defects: joblib.hash(intervened_arrays(defects, FIRST)) for defects in grid}
    jobs = [(one, recipe, REALTUNE, test, looks[one.defects]) for one in trainings]
    logits = np.stack(kept(intervened_logits, jobs, workers)).reshape(len(grid), seeds, 2, len(test), -1)
    return {
        (defects, stage): logits[row, :, column]
        for row, defects in enumerate(grid)
        for column, stage in enumerate(STAGES)
    }


def intervened_logits(
    training: Training, scratch: Recipe, realtune: Recipe, test: np.ndarray, looks: str
) -> np.ndarray:
    """Logits float32 [2, N, classes] of one training, before and after RealTune.

    `looks`: hash of the first images with these defects, so that a result of another renderer is not reused.
    Raises InputError when a test image is among those that it learns from.
    """
    images, labels = intervened_arrays(training.defects, training.images, training.start)
    clean, truth = scene_arrays(SPLIT, training.clean, start=training.start + training.images)
    refuse_shared_pixels(np.concatenate([images, clean]), test)
    module = train_small(images, labels, len(CLASS_NAMES), replace(scratch, seed=training.seed))
    trained = predict_small(module, test)
    loss = Batch(clean, truth["label"].to_numpy())
    tune(Tunable(module, loss, len(clean), HEAD), "full", replace(realtune, seed=training.seed))
    return np.stack([trained, predict_small(module, test)])
