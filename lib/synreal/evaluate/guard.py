"""Refusals that keep a reported number honest: no test image in training, no choice on the reported split."""

import numpy as np
from datasets import Dataset

from synreal.data.labels import shorten
from synreal.data.overlap import Descriptor, describe, nearest, pixel_hashes
from synreal.errors import InputError

MEND = "leave them out of the training set, or evaluate on a split that does not hold them"


def refuse_overlap(
    train: Dataset, test: Dataset, descriptor: Descriptor | None = None, threshold: float | None = None
) -> None:
    """Raise InputError when an image of `test` is in `train`.

    The same image is: the same id, the same value in column `cluster` (where both sets have one), or the same
    decoded pixels, whatever the file format. With a descriptor also any pair whose vectors have an inner
    product of `threshold` or more. The message counts the images of `test` and names the first.
    """
    if (descriptor is None) != (threshold is None):
        raise InputError("descriptor and threshold: found one without the other; give both or neither")
    _refuse(test, _known(train, test, "id"), "have an id that is in the training set")
    if "cluster" in train.column_names and "cluster" in test.column_names:
        _refuse(test, _known(train, test, "cluster"), "belong to a cluster that is in the training set")
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
    a, b = (name.strip().rstrip("/").casefold() for name in (reported, chosen_on))
    if not a or not b:
        raise InputError(f"reported {reported!r}, chosen_on {chosen_on!r}: expected the names of two splits")
    if f"{a}/".startswith(f"{b}/") or f"{b}/".startswith(f"{a}/"):
        raise InputError(
            f"chosen_on: settings were chosen on {chosen_on}, and the result is reported on {reported}, "
            "which makes it too good; choose on a validation split"
        )


def _known(train: Dataset, test: Dataset, column: str) -> np.ndarray:
    return np.isin(np.asarray(test[column][:], dtype=str), np.asarray(train[column][:], dtype=str))


def _refuse(test: Dataset, found: np.ndarray, what: str) -> None:
    if found.any():
        ids = test.select(np.flatnonzero(found))["id"][:]
        raise InputError(f"{len(ids)} of {len(test)} test images {what}: {shorten(ids)}; {MEND}")
