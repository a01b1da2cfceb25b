"""A corpus: captioned images that need no labels, such as the pool that a generator was trained on."""

import re
import warnings
from pathlib import Path

import datasets
import pandas as pd
import pyarrow.compute as pc

from synreal.data.imageset import load_image_set
from synreal.data.labels import shorten
from synreal.data.scenes import scene_set
from synreal.data.sources import KEY, find_source
from synreal.data.sprites import SPLITS
from synreal.data.worlds import expanded
from synreal.errors import InputError
from synreal.paths import cache_dir

CAPTION_COLUMNS = ("caption", "TEXT", "text", "txt")  # as image sets, LAION's tables and WebDataset call it
ID_COLUMNS = ("id", "key", KEY, "file_name", "path")
_SCENES = re.compile(r"scenes/(\w+)")


class MissingImages(UserWarning):
    """Rows of a corpus behind which there is no image; `ids` names them."""

    def __init__(self, name: str, ids: list[str], count: int):
        self.ids = ids
        super().__init__(
            f"{name}: {len(ids)} of {count} rows hold no image and cannot be retrieved: {shorten(ids, 20)}"
        )


def open_corpus(place: str | Path, count: int | None = None, seed: int = 0) -> datasets.Dataset:
    """The corpus at `place`: columns image, id, source, caption (where there is one), and all others.

    place: parquet files or WebDataset tars, with or without labels; any other image set that `load_image_set`
    takes; or scenes/SPLIT with `count` scenes of `seed`. Variables of the environment are filled in.
    Rows without an image stay and are counted in a `MissingImages` warning. Images are not decoded here.
    Raises InputError for a corpus without images or rows, and for ids that repeat.
    """
    where = expanded(str(place))
    if match := _SCENES.fullmatch(where):
        if match[1] not in SPLITS or not count:
            raise InputError(
                f"{place}: expected scenes/ and one of {', '.join(SPLITS)}, with a count above 0"
            )
        return check_corpus(scene_set(match[1], count, seed), str(place))
    kind, files = find_source(where, None)
    if kind in ("parquet", "tar"):
        return check_corpus(_finish(_read(kind, files), files), str(place))
    return check_corpus(load_image_set(where), str(place))


def check_corpus(corpus: datasets.Dataset, name: str = "corpus") -> datasets.Dataset:
    """The corpus itself; a `MissingImages` warning says which rows hold no image.

    Raises InputError when it has no rows, no column image or id, no image at all, or ids that repeat.
    """
    lacking = [column for column in ("image", "id") if column not in corpus.column_names]
    if lacking or not isinstance(corpus.features["image"], datasets.Image):
        raise InputError(
            f"{name}: found columns {shorten(corpus.column_names, 20)}; expected image (encoded images) and id; "
            "open_corpus makes them"
        )
    if len(corpus) == 0:
        raise InputError(f"{name}: the corpus is empty; expected at least one row")
    ids = pd.Series(corpus["id"][:])
    doubled = ids[ids.duplicated()].unique()
    if len(doubled) or ids.isna().any():
        raise InputError(
            f"{name}: {len(doubled)} ids occur more than once: {shorten(list(doubled))}; {ids.isna().sum()} are "
            "missing; expected a different id in every row"
        )
    missing = _without_image(corpus)
    if len(missing) == len(corpus):
        raise InputError(f"{name}: none of the {len(corpus)} rows holds an image; fetch the images first")
    if missing:
        warnings.warn(MissingImages(name, ids.iloc[missing].tolist(), len(corpus)), stacklevel=2)
    return corpus


def _without_image(corpus: datasets.Dataset) -> list[int]:
    """Rows with neither bytes nor a file that exists."""
    raw = corpus.select_columns(["image"]).cast_column("image", datasets.Image(decode=False))
    missing, row = [], 0
    for batch in raw.with_format("arrow").iter(batch_size=4096):
        column = (
            batch["image"].combine_chunks() if hasattr(batch["image"], "combine_chunks") else batch["image"]
        )
        sizes = pc.fill_null(pc.binary_length(column.field("bytes")), 0).to_pylist()
        paths = column.field("path").to_pylist()
        valid = column.is_valid().to_pylist()
        for size, path, present in zip(sizes, paths, valid, strict=True):
            if not present or (size == 0 and not (path and Path(path).is_file())):
                missing.append(row)
            row += 1
    return missing


def _read(kind: str, files: list[Path]) -> datasets.Dataset:
    name = "webdataset" if kind == "tar" else "parquet"
    paths = [str(file.resolve()) for file in files]
    try:
        return datasets.load_dataset(
            name, data_files=paths, split="train", cache_dir=str(cache_dir() / "datasets")
        )
    except (datasets.exceptions.DatasetGenerationError, ValueError, OSError) as error:
        raise InputError(
            f"{files[0].parent}: {len(files)} {kind} file(s) cannot be read: {error.__cause__ or error}"
        ) from error


def _finish(corpus: datasets.Dataset, files: list[Path]) -> datasets.Dataset:
    corpus = _name_image(corpus, files)
    corpus = _rename_first(corpus, CAPTION_COLUMNS, "caption")
    corpus = _rename_first(corpus, ID_COLUMNS, "id")
    if "id" not in corpus.column_names:
        corpus = corpus.add_column("id", [f"row-{row:09d}" for row in range(len(corpus))])
    elif corpus.features["id"].dtype not in ("string", "large_string"):
        ids = [None if key is None else str(key) for key in corpus["id"]]
        corpus = corpus.remove_columns("id").add_column("id", ids)
    if "source" not in corpus.column_names:
        corpus = corpus.add_column("source", [files[0].resolve().parent.name] * len(corpus))
    return corpus


def _name_image(corpus: datasets.Dataset, files: list[Path]) -> datasets.Dataset:
    """The column of images as `image`: the one of type Image, else one of bytes called image or jpg."""
    found = [name for name, feature in corpus.features.items() if isinstance(feature, datasets.Image)]
    found = found or [name for name in ("image", "jpg", "png", "webp") if name in corpus.column_names]
    if not found:
        raise InputError(
            f"{files[0]}: no column of images; found {shorten(corpus.column_names, 20)}; expected encoded images "
            "in a column image"
        )
    corpus = corpus if found[0] == "image" else corpus.rename_column(found[0], "image")
    if isinstance(corpus.features["image"], datasets.Image):
        return corpus
    return corpus.cast_column("image", datasets.Image())


def _rename_first(corpus: datasets.Dataset, names: tuple[str, ...], new: str) -> datasets.Dataset:
    found = next((name for name in names if name in corpus.column_names), new)
    return corpus if found == new else corpus.rename_column(found, new)
