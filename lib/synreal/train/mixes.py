"""Trainings on so many real and so many synthetic images: what a study of data sizes is made of."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from synreal.errors import InputError
from synreal.evaluate.guard import refuse_shared_pixels
from synreal.train.kept import kept
from synreal.train.recipes import Recipe
from synreal.train.small import predict_small, train_small

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
