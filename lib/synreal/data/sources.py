"""The kinds of places an image set is read from: folder, parquet, WebDataset, saved Dataset, the hub."""

import glob
import tarfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import datasets
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError
from datasets.packaged_modules.webdataset.webdataset import WebDataset, base_plus_ext

from synreal.data.folders import EXTENSIONS, SPLITS, read_folder
from synreal.errors import InputError, shorten
from synreal.paths import cache_dir

HUB = "hub:"
KEY, URL = "__key__", "__url__"  # WebDataset's own names: the stem of a sample's files, and the tar it is in
KINDS = (
    "expected an image folder, parquet file(s), WebDataset tar(s), a folder written by Dataset.save_to_disk, "
    "or hub:owner/name#split"
)
Kind = Literal["folder", "parquet", "tar", "saved", "hub"]


def read_source(source: str | Path, split: str | None, image: str, label: str) -> datasets.Dataset:
    """The set as it lies in `source`, with columns image and label found and named, but not yet checked."""
    kind, files = find_source(source, split)
    if kind == "folder":
        return read_folder(Path(source), split, label)
    if kind == "parquet":
        ds = _read_parquet(files, image, label)
    elif kind == "tar":
        ds = _read_webdataset(files, label)
    else:
        ds = _read_hub(str(source), split) if kind == "hub" else _read_saved(Path(source), split)
    ds = _name_columns(ds, image, label, str(source))
    return with_own_images(ds, Path(source)) if kind in ("parquet", "saved") else ds


def find_source(source: str | Path, split: str | None) -> tuple[Kind, list[Path]]:
    """What `source` is, and its files when it is made of files (a pattern as `part-*.tar` is expanded)."""
    if str(source).startswith(HUB):
        return "hub", []
    path = Path(source)
    if path.is_dir():
        return _kind_of_folder(path, split)
    files = [path] if path.is_file() else _without_companions(sorted(path.parent.glob(path.name)))
    if not files:
        raise InputError(f"{source}: no such file or folder; {KINDS}")
    if split is not None:
        raise InputError(
            f"split: found {split!r} beside a file; name the file of that split as source instead"
        )
    return _kind_of_files(files), files


def _kind_of_folder(path: Path, split: str | None) -> tuple[Kind, list[Path]]:
    if (path / "dataset_info.json").is_file() or (path / "dataset_dict.json").is_file():
        return "saved", []
    files = sorted(file for end in ("*.parquet", "*.tar") for file in path.rglob(end) if file.is_file())
    files = [file for file in _without_companions(files) if file.name != "metadata.parquet"]
    if not files or _holds_images(path):
        return "folder", []
    return _kind_of_files(files), _files_of_split(path, files, split)


def _holds_images(path: Path) -> bool:
    """Whether image files lie in subfolders: what other tools left beside them is then no image set."""
    images = (file for file in path.glob("*/**/*") if file.suffix.lower() in EXTENSIONS and file.is_file())
    return next(images, None) is not None


def _without_companions(files: list[Path]) -> list[Path]:
    """Without what img2dataset writes beside 00000.tar: its table 00000.parquet and 00000_stats.json."""
    tars = {file.with_suffix("") for file in files if file.suffix == ".tar"}
    return [f for f in files if f.suffix == ".tar" or f.with_name(f.stem.removesuffix("_stats")) not in tars]


def _kind_of_files(files: list[Path]) -> Kind:
    suffixes = {file.suffix for file in files}
    if suffixes == {".parquet"}:
        return "parquet"
    if suffixes == {".tar"}:
        return "tar"
    raise InputError(f"{files[0].parent}: files of the kinds {sorted(suffixes)}; {KINDS}")


def _files_of_split(root: Path, files: list[Path], split: str | None) -> list[Path]:
    """The files whose name or folder begins with the split's name, as in data/test-00000-of-00002.parquet."""
    parts = {file: _split_of(file.relative_to(root)) for file in files}
    found = sorted({part for part in parts.values() if part})
    if split is None and len(found) > 1:
        raise InputError(f"{root}: holds the splits {shorten(found)}; name one as split")
    chosen = files if split is None else [file for file in files if parts[file] == split]
    if not chosen:
        names = [file.name for file in files]
        raise InputError(f"{root}: no file of the split {split}; found {shorten(names)}")
    return chosen


def _split_of(path: Path) -> str | None:
    words = [word for part in path.parts for word in part.replace(".", "-").replace("_", "-").split("-")[:1]]
    return next((word for word in words if word in SPLITS), None)


def _read_parquet(files: list[Path], image: str, label: str) -> datasets.Dataset:
    """Column types hold for all files; images become Image while they are written to the cache."""
    schema = _common_schema(files)
    _need_columns(str(files[0]), schema.names, (image, label))
    for i, field in enumerate(schema):
        if pa.types.is_dictionary(field.type):
            schema = schema.set(i, field.with_type(field.type.value_type))
    features = datasets.Features.from_arrow_schema(schema)
    if not (_holds_bytes(schema.field(image).type)):
        raise InputError(
            f"{files[0]}: column {image} is of type {schema.field(image).type}; expected encoded images "
            "(binary, or a struct with field bytes)"
        )
    features[image] = datasets.Image()
    return load_files("parquet", files, features)


def _common_schema(files: list[Path]) -> pa.Schema:
    """The schema of all files, numbers as wide as any of them needs. Raises InputError where they differ in a
    column, its type or the names of its classes: a label then means another class in another file."""
    schemas = {}
    for file in files:
        try:
            schemas[file] = pq.read_schema(file)
        except (pa.ArrowInvalid, OSError) as error:
            raise InputError(f"{file}: not a parquet file ({error})") from error
    first, *others = files
    known = datasets.Features.from_arrow_schema(schemas[first])
    for file in others:
        for name, feature in datasets.Features.from_arrow_schema(schemas[file]).items():
            before = known.get(name)
            if isinstance(feature, datasets.ClassLabel) and feature != before:
                names = getattr(before, "names", None)
                told = f"{shorten(names)} in {first.name}" if names else f"{before} in {first.name}"
                raise InputError(
                    f"{file}: the classes of {name} are {shorten(feature.names)}, but {told}; write the "
                    "files with one list of classes, or with the names as text"
                )
    try:
        schema = pa.unify_schemas(list(schemas.values()), promote_options="permissive")
    except (pa.ArrowTypeError, pa.ArrowInvalid) as error:
        raise InputError(f"{first.parent}: the files differ in the type of a column: {error}") from error
    return schema.with_metadata(schemas[first].metadata)


def with_own_images(ds: datasets.Dataset, place: Path) -> datasets.Dataset:
    """The set with the bytes of images that its table only names, looked for beside the table.

    place: the table or its folder. Raises InputError for a name outside that folder and for a URL: a table
    may come from anybody, and what it names is not what the user named. A missing file keeps its name alone.
    """
    root = (place if place.is_dir() else place.parent).resolve()
    raw = ds.cast_column("image", datasets.Image(decode=False))
    names = [row["path"] for row in _named_only(raw)]
    for name in names:
        if "://" in name or not (root / name).resolve().is_relative_to(root):
            raise InputError(
                f"{place}: names the image {name}, which is not in {root}; store the images in the table, or "
                "beside it with paths relative to it"
            )
    if not names:
        return ds
    found = raw.map(lambda row: {"image": _read_beside(row["image"], root)}, desc="images beside the table")
    return found.cast_column("image", datasets.Image())


def _named_only(raw: datasets.Dataset) -> Iterator[dict[str, Any]]:
    for table in raw.select_columns(["image"]).with_format("arrow").iter(batch_size=4096):
        column = table["image"].combine_chunks()
        without, path = (pc.struct_field(column, part) for part in ("bytes", "path"))
        named = pc.and_(pc.is_null(without), pc.is_valid(path))
        yield from column.filter(pc.fill_null(named, False)).to_pylist()


def _read_beside(image: dict[str, Any] | None, root: Path) -> dict[str, Any] | None:
    if image is None or image["bytes"] is not None or image["path"] is None:
        return image
    file = root / image["path"]
    return {"bytes": file.read_bytes() if file.is_file() else None, "path": str(file)}


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _read_webdataset(files: list[Path], label: str) -> datasets.Dataset:
    """Fields: an image; the label as `label`, `cls` or a key of `json`, whose keys become columns; `txt`
    becomes caption.

    The id is the sample's key, preceded by the tar's name when there are several tars.
    """
    ds = load_files("tar", files)
    if "json" in ds.column_names:
        ds = _spread_json(ds)
    if label not in ds.column_names and "cls" in ds.column_names:
        ds = ds.rename_column("cls", label)
    if "txt" in ds.column_names and "caption" not in ds.column_names:
        ds = ds.rename_column("txt", "caption")
    keys = ds[KEY][:]
    if len(files) > 1:
        keys = [f"{Path(url).stem}/{key}" for url, key in zip(ds[URL], keys, strict=True)]
    drop = [name for name in (KEY, URL, "id") if name in ds.column_names]
    return ds.remove_columns(drop).add_column("id", keys)


def _spread_json(ds: datasets.Dataset) -> datasets.Dataset:
    kept, fields, records = set(ds.column_names), list(ds.features["json"]), ds["json"][:]
    ds = ds.remove_columns("json")
    for key in fields:
        if key not in kept:
            ds = ds.add_column(key, [(record or {}).get(key) for record in records])
    return ds


def load_files(
    kind: Literal["parquet", "tar"], files: list[Path], features: datasets.Features | None = None
) -> datasets.Dataset:
    """All rows of the files, kept in the cache. Raises InputError when they cannot be read."""
    paths, cache = [str(file.resolve()) for file in files], str(cache_dir() / "datasets")
    patterns = [glob.escape(path) for path in paths]  # the library takes names for patterns
    builder = "webdataset" if kind == "tar" else kind
    try:
        features = tar_features(paths) if kind == "tar" else features
        return datasets.load_dataset(
            builder, data_files=patterns, split="train", features=features, cache_dir=cache
        )
    except (DatasetGenerationError, ValueError, OSError, pa.ArrowException, tarfile.TarError) as error:
        where = files[0].parent if len(files) > 1 else files[0]
        reason = error.__cause__ or error
        raise InputError(f"{where}: {len(files)} {kind} file(s) cannot be read: {reason}") from error


def _read_saved(path: Path, split: str | None) -> datasets.Dataset:
    try:
        saved = datasets.load_from_disk(str(path))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not a folder written by Dataset.save_to_disk: {error}") from error
    if isinstance(saved, datasets.Dataset):
        if split is not None:
            raise InputError(f"split: found {split!r}, but {path} holds a single Dataset; leave split out")
        return saved
    if split not in saved:
        raise InputError(f"{path}: split is {split!r}; expected one of {sorted(saved)}")
    return saved[split]


def _read_hub(source: str, split: str | None) -> datasets.Dataset:
    name, _, named = source.removeprefix(HUB).partition("#")
    split = split or named
    if name.count("/") != 1 or not split or named not in ("", split):
        raise InputError(
            f"{source} with split {split!r}: expected hub:owner/name and the name of one split, as split or "
            "behind it, as hub:owner/name#split"
        )
    try:
        return datasets.load_dataset(name, split=split, cache_dir=str(cache_dir() / "datasets"))
    except (ConnectionError, DatasetNotFoundError) as error:
        raise InputError(
            f"{source}: the hub could not be reached or has no such set ({error}); check the name and the "
            "network, or fetch the set on another machine and give the folder of its parquet files"
        ) from error
    except (ValueError, RuntimeError) as error:  # several configurations; a loading script
        raise InputError(
            f"{source}: {error} If that cannot be named here, fetch the set with the datasets library, and "
            "give the folder of `save_to_disk`"
        ) from error


def _name_columns(ds: datasets.Dataset, image: str, label: str, where: str) -> datasets.Dataset:
    columns = [name for name, feature in ds.features.items() if isinstance(feature, datasets.Image)]
    if image not in ds.column_names and len(columns) == 1:
        image = columns[0]
    _need_columns(where, ds.column_names, (image, label))
    for old, new in ((image, "image"), (label, "label")):
        if old != new and new in ds.column_names:
            raise InputError(
                f"{where}: column {old} is to become {new}, but there is a column {new} too; drop one"
            )
        ds = ds.rename_column(old, new) if old != new else ds
    if not isinstance(ds.features["image"], datasets.Image):
        raise InputError(f"{where}: column {image} is of type {ds.features['image']}; expected Image")
    return ds


def _need_columns(where: str, found: Sequence[str], needed: Sequence[str]) -> None:
    missing = [name for name in needed if name not in found]
    if missing:
        raise InputError(
            f"{where}: no column {shorten(missing)}; found {shorten(found, 20)}; name the right ones with "
            "image_column and label_column"
        )


# The fields of WebDataset tars, also where samples lack some.


def tar_features(paths: Sequence[str]) -> datasets.Features:
    """The fields of all samples and their types; a sample may lack some, such as the image.

    The library alone takes the first samples for all. Only names and JSON are read here, not the images.
    Raises ValueError when there is no sample, for a sample with a field that the fullest lacks, for files of
    a sample that do not lie together, for a dot in a name before the extension, for a tar that was cut off,
    and for JSON that is no object or holds one field in several types.
    """
    samples: dict[tuple[str, ...], str] = {}  # one name for each kind of sample, by its fields
    values: dict[str, Any] = {}  # the first of each field
    json_types: dict[str, pa.DataType] = {}
    for path in paths:
        for name, fields, read in _samples(Path(path)):
            samples.setdefault(tuple(fields), name)
            values |= {field: read(field) for field in fields if field not in values and not _is_image(field)}
            if "json" in fields:
                _widen(json_types, read("json"), name)
    if not samples:
        raise ValueError("no sample in them; expected files such as 0000.jpg and 0000.txt")
    fullest = max(samples, key=len)
    if other := [fields for fields in samples if not set(fields) <= set(fullest)]:
        told, found = (f"{samples[fields]} holds {shorten(fields)}" for fields in (fullest, other[0]))
        raise ValueError(f"{told}, but {found}; expected the same kinds of files in every sample")
    features = datasets.Dataset.from_list([values | {KEY: "", URL: ""}]).features
    if json_types:
        features["json"] = datasets.Features.from_arrow_schema(pa.schema(list(json_types.items())))
    return datasets.Features(
        features | {field: datasets.Image() for field in sorted(fullest) if _is_image(field)}
    )


def _samples(path: Path) -> Iterator[tuple[str, dict[str, tarfile.TarInfo], Callable[[str], Any]]]:
    """(what messages call it, its files by field, a reader of a field) of each sample of a tar."""
    with tarfile.open(path) as tar:
        seen: set[str] = set()
        members = (m for m in tar if m.isfile() and not Path(m.name).name.startswith((".", "__")))
        for key, group in groupby(members, key=lambda member: base_plus_ext(member.name)[0]):
            if key is None:
                continue
            fields = {base_plus_ext(member.name)[1]: member for member in group}
            name = f"sample {key} of {path.name}"
            if key in seen:
                raise ValueError(f"the files of {name} do not lie together; pack them with `tar --sort=name`")
            if dotted := [field for field in fields if field[:1].isdigit()]:
                raise ValueError(
                    f"{fields[dotted[0]].name} of {path.name} has a dot before the extension, at which "
                    "the name of a sample ends; expected names such as 0000.jpg"
                )
            seen.add(key)
            yield name, fields, partial(_content, tar, fields)
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - tarfile.BLOCKSIZE))
        if any(file.read()):
            raise ValueError(f"{path.name} was cut off: it lacks the end of an archive; fetch it again")


def _content(tar: tarfile.TarFile, fields: dict[str, tarfile.TarInfo], field: str) -> Any:
    file = tar.extractfile(fields[field])
    content = file.read() if file else b""
    return WebDataset.DECODERS.get(field.rsplit(".", 1)[-1].lower(), bytes)(content)


def _widen(types: dict[str, pa.DataType], record: Any, name: str) -> None:
    """Widens the types of JSON fields, by name, by those of one more sample."""
    if not isinstance(record, dict):
        raise ValueError(f"{name}: the .json holds {type(record).__name__}, expected an object of fields")
    for field, value in record.items():
        found = pa.infer_type([value])
        known = types.setdefault(field, found)
        if found in (known, pa.null()):
            continue
        try:
            pair = [pa.schema([(field, kind)]) for kind in (known, found)]
            types[field] = pa.unify_schemas(pair, promote_options="permissive").field(0).type
        except (pa.ArrowTypeError, pa.ArrowInvalid):
            raise ValueError(
                f"{name}: {field} of the .json is {found}, and {known} before; expected one type"
            ) from None


def _is_image(field: str) -> bool:
    return field.rsplit(".", 1)[-1].lower() in WebDataset.IMAGE_EXTENSIONS
