"""The fields of WebDataset tars, also where samples lack some."""

import tarfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
from datasets.packaged_modules.webdataset.webdataset import WebDataset, base_plus_ext

from synreal.errors import shorten

KEY, URL = "__key__", "__url__"  # WebDataset's own names: the stem of a sample's files, and the tar it is in


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
