"""A corpus: captioned images that need no labels, such as the pool that a generator was trained on."""

import warnings
from pathlib import Path

import datasets
import pandas as pd
import pyarrow.compute as pc

from synreal.data.sources import KEY, URL, Kind, find_source, load_files, with_own_images
from synreal.data.worlds import open_world
from synreal.errors import InputError, shorten
from synreal.paths import located

IMAGE_COLUMNS = ("image", "jpg", "jpeg", "png", "webp")
CAPTION_COLUMNS = ("caption", "TEXT", "text", "txt")  # as image sets, LAION's tables and WebDataset call it
TEXT = ("string", "large_string")
ENCODED = ("binary", "large_binary", *TEXT)  # bytes of image files, or their paths
ID_COLUMNS = ("id", "key", KEY)


class MissingImages(UserWarning):
    """Rows of a corpus behind which there is no image; `ids` names them."""

    def __init__(self, name: str, ids: list[str], count: int):
        self.ids = ids
        super().__init__(
            f"{name}: {len(ids)} of {count} rows hold no image and cannot be retrieved: {shorten(ids, 20)}"
        )


def open_corpus(place: str | Path, count: int | None = None, seed: int = 0) -> datasets.Dataset:
    """The corpus at `place`: columns image, id, source, caption (where there is one), and all others.

    place: parquet files, WebDataset tars or a folder of `Dataset.save_to_disk`, with or without labels; or
    any labelled set that `open_world` takes, such as scenes/upstream with `count` scenes of `seed`.
    Rows without an image stay, and a `MissingImages` warning counts and names them; images are not decoded.
    Raises InputError for a corpus without rows or images, and for ids that repeat.
    """
    where = located(place)
    path = Path(where)
    there = path.exists() or any(path.parent.glob(path.name))
    kind, files = find_source(where, None) if there else ("hub", [])
    if kind in ("folder", "hub"):
        return check_corpus(open_world(str(place), count, seed, "none").images, str(place))
    rows = _read(kind, files, path)
    return check_corpus(_named(rows, str(place), files), str(place))


def check_corpus(corpus: datasets.Dataset, name: str = "corpus") -> datasets.Dataset:
    """The corpus itself; a `MissingImages` warning says which rows hold no image.

    Raises InputError when it has no rows, no column image or id, no image at all, or ids that repeat.
    """
    lacking = [column for column in ("image", "id") if column not in corpus.column_names]
    if lacking or not isinstance(corpus.features["image"], datasets.Image):
        raise InputError(
            f"{name}: found columns {shorten(corpus.column_names, 20)}; expected image (of encoded "
            "images) and id, as open_corpus makes them"
        )
    if "caption" in corpus.column_names and not _is_text(corpus.features["caption"]):
        raise InputError(
            f"{name}: column caption holds {corpus.features['caption']}; expected text, or no such column"
        )
    if len(corpus) == 0:
        raise InputError(f"{name}: the corpus is empty; expected at least one row")
    ids = pd.Series(corpus["id"][:])
    doubled = ids[ids.duplicated()].unique()
    if len(doubled) or ids.isna().any():
        raise InputError(
            f"{name}: {len(doubled)} ids occur more than once: {shorten(list(doubled))}; {ids.isna().sum()} "
            "are missing; expected a different id in every row"
        )
    missing = _rows_without_image(corpus)
    if len(missing) == len(corpus):
        raise InputError(f"{name}: none of the {len(corpus)} rows holds an image; fetch the images first")
    if missing:
        warnings.warn(MissingImages(name, ids.iloc[missing].tolist(), len(corpus)), stacklevel=2)
    return corpus


def _is_text(feature: object) -> bool:
    return getattr(feature, "dtype", "") in (*TEXT, "null")


def _rows_without_image(corpus: datasets.Dataset) -> list[int]:
    """Rows that hold neither bytes nor the path of a file that exists."""
    raw = corpus.select_columns(["image"]).cast_column("image", datasets.Image(decode=False))
    missing: list[int] = []
    for start in range(0, len(raw), 4096):
        column = raw.with_format("arrow")[start : start + 4096]["image"].combine_chunks()
        empty = pc.equal(pc.fill_null(pc.binary_length(pc.struct_field(column, "bytes")), 0), 0)
        rows = pc.indices_nonzero(empty)
        paths = pc.struct_field(column, "path").take(rows).to_pylist()
        missing += [
            start + row for row, path in zip(rows.to_pylist(), paths, strict=True) if not _is_file(path)
        ]
    return missing


def _is_file(path: str | None) -> bool:
    return path is not None and Path(path).is_file()


def _read(kind: Kind, files: list[Path], path: Path) -> datasets.Dataset:
    if kind == "saved":
        saved = datasets.load_from_disk(str(path))
        if isinstance(saved, datasets.DatasetDict):
            raise InputError(f"{path}: holds the splits {sorted(saved)}; name the folder of one")
        return saved
    return load_files("tar" if kind == "tar" else "parquet", files)


def _named(rows: datasets.Dataset, where: str, files: list[Path]) -> datasets.Dataset:
    """The rows with the corpus's columns found and named."""
    images = [name for name, feature in rows.features.items() if isinstance(feature, datasets.Image)]
    images = images or [name for name in IMAGE_COLUMNS if name in rows.column_names]
    if not images:
        raise InputError(
            f"{where}: no column of images; found {shorten(rows.column_names, 20)}; expected encoded images "
            f"in a column called {' or '.join(IMAGE_COLUMNS)}"
        )
    rows = _renamed(rows, tuple(images), "image")
    kind = rows.features["image"]
    if not isinstance(kind, (datasets.Image, dict)) and getattr(kind, "dtype", "") not in ENCODED:
        raise InputError(f"{where}: column {images[0]} holds {kind}; expected encoded images, or their paths")
    rows = with_own_images(rows.cast_column("image", datasets.Image()), files[0] if files else Path(where))
    rows = _with_ids(_renamed(rows, CAPTION_COLUMNS, "caption"), files)
    if "source" not in rows.column_names:
        rows = rows.add_column("source", [Path(where).name] * len(rows))
    return rows


def _with_ids(rows: datasets.Dataset, files: list[Path]) -> datasets.Dataset:
    """Ids as text; a WebDataset's key is preceded by its tar's name when there are several tars."""
    column = next((name for name in ID_COLUMNS if name in rows.column_names), None)
    if column is None:
        return rows.add_column("id", [f"row-{row:010d}" for row in range(len(rows))])
    keys = [None if key is None else str(key) for key in rows[column][:]]
    if column == KEY and len(files) > 1:
        keys = [f"{Path(url).stem}/{key}" for url, key in zip(rows[URL], keys, strict=True)]
    return rows.remove_columns(column).add_column("id", keys)


def _renamed(rows: datasets.Dataset, names: tuple[str, ...], new: str) -> datasets.Dataset:
    found = next((name for name in names if name in rows.column_names), new)
    return rows if found == new else rows.rename_column(found, new)
