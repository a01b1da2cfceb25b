"""What each defect of training data should hurt in a classifier, and what it should leave alone.

P1 pairs defects of data with defects of classifiers (sec. 3): unfaithful labels with fine-grained accuracy,
a narrow range of sizes with small and large objects, a narrow range of brightness with dark and bright
images, missing people with objects behind a person. Each pair here has a counterpart on the same scale: if
the counterpart falls as much, the defect did harm, but not there in particular.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from synreal.data.factors import draw_factors, flags
from synreal.data.hierarchy import SCENES_HIERARCHY
from synreal.data.scenes import compose_all, scene_arrays
from synreal.data.sprites import CLASS_NAMES
from synreal.errors import InputError
from synreal.evaluate.repeated import Effect

FACTORS = {
    "scale": ("smaller", "larger"),
    "brightness": ("brighter", "darker"),
    "person": ("person_blocking",),
}
DEFECTS = ("confusion", *FACTORS)
MATCHING = {  # in words, by defect: what it should hurt
    "confusion": "fine-grained accuracy",
    "scale": "small or large objects",
    "brightness": "bright or dark images",
    "person": "object behind a person",
}
COUNTERPART = {  # and what it should not
    "confusion": "coarse accuracy",
    "scale": "objects of usual size",
    "brightness": "images of usual brightness",
    "person": "no person in front",
}
GROUPS = list(SCENES_HIERARCHY.members(CLASS_NAMES).values())
GROUP_OF = np.select(
    [np.isin(np.arange(len(CLASS_NAMES)), classes) for classes in GROUPS], range(len(GROUPS))
)
SEVERAL = np.concatenate([classes for classes in GROUPS if len(classes) > 1])
SEARCHED = 200_000  # scenes that are looked through for rare ones at most


@dataclass(frozen=True, eq=False)
class TestSet:
    """Undistorted test scenes: the first ones as they come, then others chosen for their rare factors.

    images: uint8 [N, 32, 32, 3]; labels: int64 [N]; natural: bool [N], of those as they come; factors: bool
    frame [N], one column for each factor; clusters: codes [N] of the photographs that are shown.
    """

    __test__ = False  # its name begins as those that pytest collects

    images: np.ndarray
    labels: np.ndarray
    natural: np.ndarray
    factors: pd.DataFrame
    clusters: np.ndarray


def enriched_test(natural: int, rare: int, split: str = "test", seed: int = 0) -> TestSet:
    """`natural` scenes of the split, and `rare` further ones for each of the three groups of FACTORS.

    A rare factor is on a few percent of scenes only; further scenes are chosen by the factors they were
    drawn with, never by what a model says of them.
    """
    images, truth = scene_arrays(split, natural, seed)
    chosen = _rare_indices(natural, rare, split, seed)
    more, more_truth = compose_all(((i, draw_factors(i, split, seed)) for i in chosen), split, seed)
    truth = pd.concat([truth, more_truth], ignore_index=True)
    names = [name for group in FACTORS.values() for name in group]
    return TestSet(
        np.concatenate([images, more]),
        truth["label"].to_numpy(),
        np.arange(len(truth)) < natural,
        truth[names].astype(bool),
        pd.factorize(truth["cluster"])[0],
    )


def _rare_indices(start: int, rare: int, split: str, seed: int) -> list[int]:
    wanted = dict.fromkeys(FACTORS, rare)
    found: list[int] = []
    for index in range(start, start + SEARCHED):
        if not any(wanted.values()):
            return found
        shown = flags(draw_factors(index, split, seed))
        new = [group for group, names in FACTORS.items() if any(shown[n] for n in names) and wanted[group]]
        found += [index] if new else []
        for group in new:
            wanted[group] -= 1
    raise InputError(f"rare: found {rare} wanted of each factor, expected what {SEARCHED} scenes hold")


def slice_accuracy(logits: np.ndarray, test: TestSet, name: str) -> Effect:
    """The accuracy that `name` says, of S trainings; logits: float [S, N, classes]."""
    hits, chosen = slice_hits(logits, test, name)
    return Effect.of(hits, chosen, name)


def slice_hits(logits: np.ndarray, test: TestSet, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Whether a training is right on an image, 0.0 or 1.0 [S, N], and which images count, bool [N].

    name: a value of MATCHING or COUNTERPART, or "accuracy". A factor's slice is all images that have it, all
    else is of images as they come, so that it is the accuracy of the world. Raises InputError for others.
    """
    answers = logits.argmax(-1)
    if name == "fine-grained accuracy":
        return _right_in_group(logits, test.labels), test.natural & np.isin(test.labels, SEVERAL)
    if name == "coarse accuracy":
        return (GROUP_OF[answers] == GROUP_OF[test.labels]).astype(float), test.natural
    return (answers == test.labels).astype(float), _rows(test, name)


def _right_in_group(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """1.0 where the label has the largest logit of its own coarse group (P1 sec. 2.1), else 0.0: [S, N]."""
    same = GROUP_OF[labels][:, None] == GROUP_OF[None, :]
    return (np.where(same, logits, -np.inf).argmax(-1) == labels).astype(float)


def _rows(test: TestSet, name: str) -> np.ndarray:
    if name == "accuracy":
        return test.natural
    for defect, factors in FACTORS.items():
        shown = test.factors[list(factors)].to_numpy().any(axis=1)
        if name in (MATCHING[defect], COUNTERPART[defect]):
            return shown if name == MATCHING[defect] else test.natural & ~shown
    names = ["accuracy", *MATCHING.values(), *COUNTERPART.values()]
    raise InputError(f"slice: found {name!r}, expected one of {', '.join(names)}")
