"""Image folders: one subfolder per class, images at any depth below it."""

import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import datasets
import pandas as pd
import pyarrow as pa

from synreal.data.labels import shorten
from synreal.errors import InputError

log = logging.getLogger(__name__)

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".gif")
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
    table = _join_metadata(images, file) if file else images
    if label not in table or label == "folder":
        check_class_folders(folder, images)
        table = table.assign(label=images["folder"])
    else:
        table = table.rename(columns={label: "label"})
    labels = table.pop("label")
    extra = table.drop(columns=["path", "folder"])
    ids = images["path"] if split is None else f"{split}/" + images["path"]
    return from_paths(folder, images["path"].tolist(), ids.tolist(), labels, extra)


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


def _walk(folder: Path) -> Iterator[str]:
    for parent, subfolders, files in os.walk(folder, followlinks=True):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        inside = Path(parent).relative_to(folder).as_posix()
        prefix = "" if inside == "." else f"{inside}/"
        yield from (prefix + name for name in files if not name.startswith("."))


def _join_metadata(images: pd.DataFrame, file: Path) -> pd.DataFrame:
    readers = {".csv": pd.read_csv, ".parquet": pd.read_parquet}
    try:
        metadata = readers[file.suffix](file) if file.suffix in readers else pd.read_json(file, lines=True)
    except ValueError as error:  # of pandas, pyarrow and Unicode alike
        raise InputError(f"{file}: not readable: {error}; expected a table in UTF-8") from error
    if "file_name" not in metadata:
        raise InputError(f"{file}: columns {shorten(list(metadata))}; expected file_name among them")
    listed, present = set(metadata["file_name"]), set(images["path"])
    if listed != present or not metadata["file_name"].is_unique:
        raise InputError(
            f"{file}: column file_name must name each image of the folder once; listed but missing: "
            f"{shorten(sorted(listed - present))}; not listed: {shorten(sorted(present - listed))}"
        )
    return images.merge(metadata.rename(columns={"file_name": "path"}), on="path")
