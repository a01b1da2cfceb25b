"""Labels and folders of images as people have them, brought to common columns."""

import json
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa

from synreal.errors import InputError, shorten

NAME_COLUMN = "class_name"  # names the class of a numeric label, row by row


def classify(ds: datasets.Dataset, names: Sequence[str] | None, where: str) -> datasets.Dataset:
    """The set with column `label` as ClassLabel.

    Names come from `names` (in label order), from the column's own ClassLabel, from the values when they are
    strings (see `class_order`), or from column `class_name`. Numbers without names raise InputError.
    """
    feature = ds.features["label"]
    if isinstance(feature, list | dict | datasets.List | datasets.LargeList):
        raise InputError(f"{where}: labels are lists ({feature}); expected one class for each image")
    values = _label_values(ds, where)
    if names is not None:
        _check_names(names, "class_names")
    if isinstance(feature, datasets.ClassLabel):
        return _reorder(ds, values, feature.names, list(names or feature.names), where)
    if pd.api.types.is_integer_dtype(values.dtype):
        found = list(names) if names is not None else _names_beside(ds, values, where)
        return _with_labels(ds, _in_range(values.to_numpy(), found, where), found)
    if pd.api.types.is_string_dtype(values.dtype):
        found = list(names) if names is not None else class_order(values.unique())
        return _with_labels(ds, _numbers(values, found, where), found)
    raise InputError(
        f"{where}: labels are of type {feature}; expected class names (strings), integers or ClassLabel"
    )


def relabel(ds: datasets.Dataset, names: Sequence[str], where: str) -> datasets.Dataset:
    """The same images with labels numbered in the order of `names`; raises InputError on an unknown class."""
    old = ds.features["label"].names
    values = pd.Series(ds.with_format("numpy")["label"][:])
    return ds if old == list(names) else _reorder(ds, values, old, list(names), where)


def class_order(names: Sequence[str]) -> list[str]:
    """Class names sorted as text, or as numbers when every one is a number ("2" before "10")."""
    return sorted(names, key=int) if all(name.isdecimal() for name in names) else sorted(names)


def _label_values(ds: datasets.Dataset, where: str) -> pd.Series:
    column = ds.with_format("arrow")["label"][:]
    if column.null_count:
        raise InputError(
            f"{where}: {column.null_count} of {len(column)} rows have no label; remove them or fill them in"
        )
    return column.to_pandas()


def _reorder(
    ds: datasets.Dataset, values: pd.Series, old: list[str], new: list[str], where: str
) -> datasets.Dataset:
    numbers = _in_range(values.to_numpy(), old, where)
    if old == new:
        return _with_labels(ds, numbers, new)
    missing = [name for name in old if name not in set(new)]
    if missing:
        raise InputError(f"{where}: classes {shorten(missing)} are not among the class names {shorten(new)}")
    position = {name: i for i, name in enumerate(new)}
    return _with_labels(ds, np.array([position[name] for name in old])[numbers], new)


def _numbers(values: pd.Series, names: list[str], where: str) -> np.ndarray:
    numbers = pd.Index(names).get_indexer(pd.Index(values))
    unknown = sorted(set(values[numbers < 0]))
    if unknown:
        raise InputError(f"{where}: labels {shorten(unknown)} are not among class_names {shorten(names)}")
    return numbers


def _in_range(values: np.ndarray, names: list[str], where: str) -> np.ndarray:
    outside = values[(values < 0) | (values >= len(names))]
    if len(outside):
        raise InputError(
            f"{where}: {len(outside)} labels lie outside 0..{len(names) - 1}, the first is {outside[0]}; "
            f"expected numbers of the {len(names)} classes {shorten(names)}"
        )
    return values


def _names_beside(ds: datasets.Dataset, values: pd.Series, where: str) -> list[str]:
    if NAME_COLUMN not in ds.column_names:
        raise InputError(
            f"{where}: labels are numbers and nothing names the classes; give class_names in label order, "
            f"or store the labels as ClassLabel, or add a column {NAME_COLUMN}"
        )
    pairs = pd.DataFrame({"label": values, "name": ds[NAME_COLUMN][:]}).drop_duplicates().sort_values("label")
    unique = pairs["label"].is_unique and pairs["name"].is_unique
    if not unique or pairs["label"].tolist() != list(range(len(pairs))):
        raise InputError(
            f"{where}: columns label and {NAME_COLUMN} do not pair each of 0, 1, 2, ... with one name; "
            f"found {shorten([f'{n}={name}' for n, name in pairs.itertuples(index=False)])}; give class_names"
        )
    return pairs["name"].tolist()


def _check_names(names: Sequence[str], what: str) -> None:
    doubled = (
        sorted({name for name in names if list(names).count(name) > 1})
        if len(set(names)) < len(names)
        else []
    )
    if isinstance(names, str) or not names or doubled:
        raise InputError(f"{what}: found {names!r:.200}; expected a list of different class names")


def _with_labels(ds: datasets.Dataset, numbers: np.ndarray, names: list[str]) -> datasets.Dataset:
    labels = pa.array(np.asarray(numbers, dtype=np.int64))
    feature = datasets.ClassLabel(names=names)
    return ds.remove_columns("label").add_column("label", labels, feature=feature)


# Image folders: one subfolder per class, images at any depth below it.


log = logging.getLogger(__name__)

NUMBER = r"[-+]?((0|[1-9]\d*)(\.\d*)?|\.\d+)([eE][-+]?\d+)?|[-+]?(inf|nan)"
EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".gif")
TEXTS = frozenset({"file_name", "id", "cluster", "caption", "prompt", "source", "generator", "class_name"})
METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")  # the names of Hugging Face's image folders
SPLITS = ("train", "training", "val", "valid", "validation", "test", "testing")


def split_folder(root: Path, split: str | None) -> Path:
    """`root`, or its subfolder `split`; InputError when it is missing or empty, or a split must be named."""
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; expected a folder with one subfolder of images per class")
    inside = sorted(entry.name for entry in root.iterdir() if not entry.name.startswith("."))
    if not inside:
        raise InputError(f"{root}: the folder is empty; expected one subfolder of images per class")
    if split is not None and split not in inside:
        raise InputError(f"{root}: no subfolder named {split} (the split asked for); found {shorten(inside)}")
    subfolders = {name for name in inside if (root / name).is_dir()}
    splits = subfolders & set(SPLITS)
    if split is None and splits and (splits == subfolders or len(splits) > 1):  # a class may be called train
        raise InputError(
            f"{root}: the subfolders {shorten(sorted(splits))} are splits, not classes; name one as split"
        )
    return root / split if split else root


def list_images(folder: Path) -> pd.DataFrame:
    """One row per image: `path` relative to the folder, and `folder`, the top subfolder it lies in.

    Hidden files are passed over; other files without an image extension are counted in a log warning.
    Raises InputError for a folder without images, without subfolders, or with an empty subfolder.
    """
    files = sorted(_walk(folder))
    images = [path for path in files if path.lower().endswith(EXTENSIONS)]
    others = [path for path in files if path not in METADATA and not path.lower().endswith(EXTENSIONS)]
    if others:
        log.warning("%s: %d files are no images and were left out: %s", folder, len(others), shorten(others))
    if not images:
        raise InputError(
            f"{folder}: {len(files)} files, no image among them; expected {', '.join(EXTENSIONS)}"
        )
    return pd.DataFrame({"path": images, "folder": [path.partition("/")[0] for path in images]})


def check_class_folders(folder: Path, images: pd.DataFrame) -> None:
    """Raise InputError when images lie outside class subfolders, or a class subfolder holds none."""
    loose = images.loc[~images["path"].str.contains("/", regex=False), "path"].tolist()
    if loose:
        raise InputError(
            f"{folder}: {len(loose)} images lie directly in the folder: {shorten(loose)}; expected "
            "them in one subfolder per class, or a metadata file with columns file_name and label"
        )
    subfolders = {e.name for e in os.scandir(folder) if e.is_dir() and not e.name.startswith(".")}
    empty = sorted(subfolders - set(images["folder"]))
    if empty:
        raise InputError(f"{folder}: no image in the class subfolders {shorten(empty)}; fill or remove them")


def read_folder(root: Path, split: str | None, label: str) -> datasets.Dataset:
    """The folder as a Dataset: image, label (class name), id (path relative to `root`), metadata columns."""
    folder = split_folder(root, split)
    images = list_images(folder)
    file = next((folder / name for name in METADATA if (folder / name).is_file()), None)
    table = _join_metadata(images, file) if file else images.drop(columns=["path", "folder"])
    if label not in table:
        check_class_folders(folder, images)
        table = table.assign(label=images["folder"])
    else:
        table = table.rename(columns={label: "label"})
    labels = table.pop("label")
    ids = images["path"] if split is None else f"{split}/" + images["path"]
    return from_paths(folder, images["path"].tolist(), ids.tolist(), labels, table)


def from_paths(
    folder: Path, paths: Sequence[str], ids: Sequence[str], labels: pd.Series, extra: pd.DataFrame
) -> datasets.Dataset:
    """A Dataset that refers to the image files where they lie, without copying them."""
    files = pa.array([str(folder.resolve() / path) for path in paths], pa.string())
    image = pa.StructArray.from_arrays([pa.nulls(len(files), pa.binary()), files], ["bytes", "path"])
    plain = pa.table({"label": pa.array(labels), "id": pa.array(ids, pa.string())})
    more = pa.Table.from_pandas(extra, preserve_index=False).replace_schema_metadata()
    columns = {
        table.field(i).name: table.column(i) for table in (plain, more) for i in range(table.num_columns)
    }
    features = datasets.Features.from_arrow_schema(pa.table(columns).schema)
    features = datasets.Features({"image": datasets.Image(), **features})
    table = pa.table({"image": image, **columns}).cast(features.arrow_schema)
    return datasets.Dataset(table, info=datasets.DatasetInfo(features=features))


def _walk(folder: Path, prefix: str = "", above: frozenset[tuple[int, int]] = frozenset()) -> Iterator[str]:
    """Files below a folder. A link to a folder that it lies in is passed over, or there would be no end."""
    stat = folder.stat()
    above |= {(stat.st_dev, stat.st_ino)}
    with os.scandir(folder) as entries:
        shown = [entry for entry in entries if not entry.name.startswith(".")]
    for entry in shown:
        if entry.is_dir():
            target = entry.stat()
            if (target.st_dev, target.st_ino) not in above:
                yield from _walk(Path(entry.path), f"{prefix}{entry.name}/", above)
        elif entry.is_file() or not Path(entry.path).exists():
            yield prefix + entry.name
        else:
            raise InputError(f"{entry.path}: is a pipe, a socket or a device, expected a file; remove it")


def _join_metadata(images: pd.DataFrame, file: Path) -> pd.DataFrame:
    readers = {".csv": _read_csv, ".parquet": pd.read_parquet, ".jsonl": _read_json_lines}
    try:
        metadata = readers[file.suffix](file)
    except (ValueError, OSError) as error:  # of pandas, pyarrow and Unicode alike
        raise InputError(f"{file}: not readable: {error}; expected a table in UTF-8") from error
    if "file_name" not in metadata:
        raise InputError(f"{file}: columns {shorten(list(metadata))}; expected file_name among them")
    if "image" in metadata:
        raise InputError(f"{file}: the column image would stand for the images themselves; rename it")
    listed, present = set(metadata["file_name"]), set(images["path"])
    if listed != present or not metadata["file_name"].is_unique:
        raise InputError(
            f"{file}: column file_name must name each image of the folder once; listed but missing: "
            f"{shorten(sorted(listed - present))}; not listed: {shorten(sorted(present - listed))}"
        )
    return metadata.set_index("file_name").loc[images["path"]].reset_index(drop=True)


def _read_csv(file: Path) -> pd.DataFrame:
    """Every cell as the text that it is, and then numbers where a whole column holds them."""
    table = pd.read_csv(file, dtype=str, keep_default_na=False)
    if twice := [name for name in table if str(name).endswith(".1") and str(name)[:-2] in table]:
        raise InputError(f"{file}: the columns {shorten([name[:-2] for name in twice])} are there twice")
    return table.apply(lambda column: column if column.name in TEXTS else _typed(column))


def _typed(column: pd.Series) -> pd.Series:
    """Numbers where every cell is written as one, truth values except among labels, or else text.

    01 is no number: it names something. An empty cell is a missing value.
    """
    known = column.where(column != "", None)
    cells = known.dropna()
    if column.name != "label" and len(cells) and cells.isin(["True", "False"]).all():
        return known.map({"True": True, "False": False})
    if len(cells) and cells.str.fullmatch(r"-?(0|[1-9]\d*)").all():
        return known.astype("Int64" if len(cells) < len(known) else "int64")
    if column.name != "label" and len(cells) and cells.str.fullmatch(NUMBER).all():
        return known.astype(float)
    return known


def _read_json_lines(file: Path) -> pd.DataFrame:
    """One JSON object a line; a field is of one type in all of them, or missing."""
    lines = [line for line in file.read_text(encoding="utf-8").split("\n") if line.strip()]
    rows = [json.loads(line) for line in lines]
    if strange := next((row for row in rows if not isinstance(row, dict)), None):
        raise ValueError(f"found {strange!s:.50}, expected an object of fields in each line")
    names = dict.fromkeys(name for row in rows for name in row)
    return pd.DataFrame({name: _one_type(name, [row.get(name) for row in rows]) for name in names})


def _one_type(name: str, cells: list[Any]) -> pd.Series:
    kinds = {type(cell) for cell in cells if cell is not None}
    if len(kinds) > 1 and kinds != {int, float}:
        raise ValueError(
            f"{name} is {' in one line and '.join(sorted(k.__name__ for k in kinds))} in another"
        )
    if name in TEXTS and kinds & {int, float}:
        return pd.Series([None if cell is None else str(cell) for cell in cells], dtype=object)
    whole = kinds == {int} and None not in cells
    return pd.Series(cells, dtype=None if whole or kinds <= {int, float} else object)
