"""Refusals that keep a reported number honest: no test image in training, no choice on the reported split."""

import numpy as np
from datasets import Dataset

from synreal.data.labels import shorten
from synreal.data.overlap import Descriptor, describe, nearest, pixel_hashes
from synreal.errors import InputError
from synreal.models.card import Card

MEND = "leave them out of the training set, or evaluate on a split that does not hold them"


def refuse_overlap(
    train: Dataset, test: Dataset, descriptor: Descriptor | None = None, threshold: float | None = None
) -> None:
    """Raise InputError when an image of `test` is in `train`.

    The same image is: the same value in column `cluster` (where both sets have one), or the same decoded
    pixels, whatever the file format. With a descriptor also any pair whose vectors have an inner product of
    `threshold` or more. Ids do not count: files of two folders may bear the same names. The message counts
    the images of `test` and names the first.
    """
    if (descriptor is None) != (threshold is None):
        raise InputError("descriptor and threshold: found one without the other; give both or neither")
    if "cluster" in train.column_names and "cluster" in test.column_names:
        own, known = (np.asarray(part["cluster"][:], dtype=str) for part in (test, train))
        _refuse(test, np.isin(own, known), "belong to a cluster that is in the training set")
    _refuse(test, np.isin(pixel_hashes(test), pixel_hashes(train)), "have the pixels of a training image")
    if descriptor is not None and threshold is not None:
        close = nearest(describe(test, descriptor), describe(train, descriptor))[1] >= threshold
        _refuse(test, close, f"are within {threshold} ({descriptor.name}) of a training image")


def refuse_shared_pixels(train: np.ndarray, test: np.ndarray) -> None:
    """`refuse_overlap` for images in memory, uint8 [N, H, W, 3]: no test image may be in `train` as well."""
    known = {image.tobytes() for image in train} if train.shape[1:] == test.shape[1:] else set()
    found = np.flatnonzero([image.tobytes() in known for image in test])
    if len(found):
        raise InputError(
            f"{len(found)} of {len(test)} test images have the pixels of a training image, first number "
            f"{found[0]}; {MEND}"
        )


def refuse_choice_on(reported: str, chosen_on: str) -> None:
    """Raise InputError when a setting was chosen on the images whose result is reported.

    Both are names of splits, such as scenes/test; a name holds those that continue it (scenes holds
    scenes/test).
    """
    if _one_holds_the_other(reported, chosen_on):
        raise InputError(
            f"chosen_on: settings were chosen on {chosen_on}, and the result is reported on {reported}, "
            "which makes it too good; choose on a validation split"
        )


def refuse_learned(card: Card, reported: str) -> None:
    """Raise InputError when the result is reported on a split that the checkpoint's card says it knows.

    The card says so under `training`: `data`, what it learned from, and `chosen_on`, on what its settings
    were chosen; each is the name of a split, or missing.
    """
    refuse_trained_on(card, reported)
    if "chosen_on" in card.training:
        refuse_choice_on(reported, card.training["chosen_on"])


def refuse_trained_on(card: Card, reported: str) -> None:
    """Raise InputError when the card says that the checkpoint learned from the split itself.

    This alone is asked of a judge of images, whose own result is not reported.
    """
    learned = card.training.get("data")
    if learned is not None and _one_holds_the_other(reported, learned):
        raise InputError(
            f"{card.where}: {card.name} learned from {learned}, and the result is reported on {reported}; "
            "evaluate on a split that it has not seen"
        )


def _one_holds_the_other(*splits: str) -> bool:
    a, b = (name.strip().rstrip("/").casefold() for name in splits)
    if not a or not b:
        raise InputError(f"splits {splits}: found an empty name, expected the names of two splits")
    return f"{a}/".startswith(f"{b}/") or f"{b}/".startswith(f"{a}/")


def _refuse(test: Dataset, found: np.ndarray, what: str) -> None:
    if found.any():
        ids = test.select(np.flatnonzero(found))["id"][:]
        raise InputError(f"{len(ids)} of {len(test)} test images {what}: {shorten(ids)}; {MEND}")
