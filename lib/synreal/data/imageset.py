"""Image sets: a `datasets.Dataset` with columns `image`, `label` and provenance."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
from datasets import Dataset

from synreal.data.decode import unreadable_images
from synreal.data.folders import classify, relabel
from synreal.data.sources import HUB, read_source
from synreal.errors import InputError, shorten


def not_generated(images: Dataset) -> Dataset:
    """The set with a column `generator` that names none: for published sets of real images."""
    return images.add_column("generator", pa.nulls(len(images), pa.string()))


def kind_of(images: Dataset) -> str:
    """real, synthetic or mixed, as far as the set itself says; else unknown.

    A generated image names its generator, and one without a name in that column is real. Where there is no
    such column, `source` says it with one of these words.
    """
    if "generator" in images.column_names:
        kinds = {"real" if generator is None else "synthetic" for generator in images["generator"][:]}
    else:
        kinds = set(images["source"][:])
    if not kinds <= {"real", "synthetic"}:
        return "unknown"
    return kinds.pop() if len(kinds) == 1 else "mixed"


# The image-set contract: one table of images, labels, ids and sources, whatever they were loaded from.
#
# Columns: `image` (datasets.Image), `label` (ClassLabel), `id` (string, different in every row), `source`
# (string), and any others: caption, factor columns, `cluster` (a name that images share which are not
# independent, such as the photograph they show), and for generated images prompt, seed, generator and
# guidance_scale. An image without a name in column `generator` is real; see `synreal.data.imageset`.


Unreadable = Literal["stop", "drop"]
ID_COLUMNS = ("id", "file_name", "path")  # the first of these that a table has becomes the id


class UnreadableImages(UserWarning):
    """Images that were left out because they could not be decoded; `ids` and `reasons` name them."""

    def __init__(self, name: str, ids: list[str], reasons: list[str]):
        self.ids, self.reasons = ids, reasons
        first = [f"{key} ({reason})" for key, reason in zip(ids, reasons, strict=True)]
        super().__init__(f"{name}: {len(ids)} unreadable images were dropped: {shorten(first, 20)}")


def load_image_set(
    source: str | Path,
    *,
    split: str | None = None,
    image_column: str = "image",
    label_column: str = "label",
    class_names: Sequence[str] | None = None,
    unreadable: Unreadable = "stop",
) -> datasets.Dataset:
    """The image set at `source`, with the columns of the contract and all further columns.

    source: an image folder (one subfolder per class; a metadata file may add columns by `file_name`), a
    parquet file or a folder or pattern of them, WebDataset tars, a folder of `Dataset.save_to_disk`, or
    `hub:owner/name#split`, the only form that uses the network.
    split: a subfolder, the beginning of file names, or a split of the hub or of a saved set.
    class_names: names in label order; needed for numeric labels that nothing else names. Without it, names
    are those stored, or sorted (as numbers, when all are numbers).
    unreadable: "stop" raises InputError with the count and the first image; "drop" leaves such images out and
    says so in an `UnreadableImages` warning. Every image is decoded once to find them.
    Images keep their stored bytes; `to_rgb` turns any colour mode into RGB.
    """
    ds = read_source(source, split, image_column, label_column)
    name = _name_of(source, split)
    ds = classify(ds, class_names, str(source))
    return finish_image_set(_with_ids(ds, str(source)), name, unreadable)


def finish_image_set(ds: datasets.Dataset, name: str, unreadable: Unreadable = "stop") -> datasets.Dataset:
    """The set with `source` filled in, checked, and without unreadable images; see `load_image_set`."""
    if unreadable not in ("stop", "drop"):
        raise InputError(f"unreadable: found {unreadable!r}, expected 'stop' or 'drop'")
    if "source" not in ds.column_names:
        ds = ds.add_column("source", pa.array([name] * len(ds), pa.string()))
    first = ("image", "label", "id", "source")
    ds = ds.select_columns([*first, *(column for column in ds.column_names if column not in first)])
    check_image_set(ds, name)
    return _without_unreadable(ds, name, unreadable)


def check_image_set(ds: datasets.Dataset, name: str) -> None:
    """Raise InputError, with `name` in front, when a set breaks the contract.

    Checked: columns and their types, at least one row, different ids, labels among the classes.
    """
    expected = {"image": "Image", "label": "ClassLabel", "id": "string", "source": "string"}
    found = {column: _type_name(ds.features.get(column)) for column in expected}
    if found != expected:
        raise InputError(f"{name}: columns are {found}; expected {expected}; see synreal.data.imageset")
    if len(ds) == 0:
        raise InputError(f"{name}: the image set is empty; expected at least one image")
    _check_ids(ds, name)
    labels, count = ds.with_format("numpy")["label"][:], ds.features["label"].num_classes
    outside = labels[(labels < 0) | (labels >= count)]
    if len(outside):
        raise InputError(
            f"{name}: {len(outside)} labels lie outside 0..{count - 1}, the first is {outside[0]}; "
            f"expected numbers of the {count} classes"
        )


def class_names(ds: datasets.Dataset) -> list[str]:
    """Class names in label order."""
    return list(ds.features["label"].names)


def mixed_classes(ds: datasets.Dataset) -> datasets.Dataset:
    """The same images in an order of which any part holds many classes.

    Folders come class by class; these are shuffled, always alike. Other sets keep their order.
    """
    labels = np.asarray(ds.with_format("numpy")["label"][:])
    return ds.shuffle(seed=0) if len(ds) and (np.diff(labels) >= 0).all() else ds


def match_classes(
    reference: datasets.Dataset,
    other: datasets.Dataset,
    names: tuple[str, str] = ("the first set", "the second set"),
) -> datasets.Dataset:
    """`other` with its labels numbered in the order of `reference`'s classes.

    Raises InputError that lists the classes missing on each side when the two sets do not have the same ones.
    """
    wanted, given = class_names(reference), class_names(other)
    lacking = [name for name in wanted if name not in set(given)]
    surplus = [name for name in given if name not in set(wanted)]
    if lacking or surplus:
        raise InputError(
            f"classes differ: missing in {names[1]}: {shorten(lacking, 20)}; missing in {names[0]}: "
            f"{shorten(surplus, 20)}; rename or remove classes so that both have the same"
        )
    return relabel(other, wanted, names[1])


def _without_unreadable(ds: datasets.Dataset, name: str, unreadable: Unreadable) -> datasets.Dataset:
    bad = unreadable_images(ds)
    if not bad:
        return ds
    ids = ds.select(list(bad))["id"][:]
    reasons = list(bad.values())
    if unreadable == "stop" or len(bad) == len(ds):
        raise InputError(
            f"{name}: {len(bad)} of {len(ds)} images cannot be decoded, the first is {ids[0]}: {reasons[0]}; "
            "replace them, or leave them out with unreadable='drop'"
        )
    warnings.warn(UnreadableImages(name, ids, reasons), stacklevel=2)
    return ds.select([row for row in range(len(ds)) if row not in bad])


def _with_ids(ds: datasets.Dataset, where: str) -> datasets.Dataset:
    column = next((name for name in ID_COLUMNS if name in ds.column_names), None)
    if column == "id":
        return ds if _type_name(ds.features["id"]) == "string" else _text_ids(ds)
    if column is None:
        return ds.add_column("id", [f"row-{row:08d}" for row in range(len(ds))])
    keys = pd.Series(ds[column][:], dtype="str")
    if not keys.is_unique:
        raise InputError(f"{where}: column {column} would become the id but repeats values; add a column id")
    return ds.add_column("id", keys.tolist())


def _text_ids(ds: datasets.Dataset) -> datasets.Dataset:
    # Replacing the column leaves the images where they are; casting it would rewrite them all.
    ids = [None if key is None else str(key) for key in ds["id"]]
    return ds.remove_columns("id").add_column("id", pa.array(ids, pa.string()))


def _check_ids(ds: datasets.Dataset, name: str) -> None:
    ids = pd.Series(ds["id"][:])
    doubled = ids[ids.duplicated()].unique()
    if len(doubled) or ids.isna().any():
        raise InputError(
            f"{name}: {len(doubled)} ids occur more than once: {shorten(list(doubled))}; {ids.isna().sum()} "
            "are missing; expected a different id in every row"
        )


def _type_name(feature: object) -> str:
    if isinstance(feature, datasets.Value):
        return feature.dtype.removeprefix("large_")
    return type(feature).__name__ if feature is not None else "missing"


def _name_of(source: str | Path, split: str | None) -> str:
    """A name for column `source` that is the same on every machine: no folders above the set itself."""
    name = str(source) if str(source).startswith(HUB) else Path(source).resolve().name
    return f"{name}/{split}" if split else name
