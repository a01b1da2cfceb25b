"""Text sets from anywhere, under one contract: columns text, id, cluster and source.

`cluster` names what several texts share that are not independent, such as the chapter they stand in; where
nothing is known of that, it is the id. Synthetic sets add prompt, seed, generator, temperature and top_p.
"""

import re
from collections.abc import Callable
from pathlib import Path

import datasets
import pandas as pd
import pyarrow as pa
from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError

from synreal.errors import InputError
from synreal.paths import cache_dir, expanded, located
from synreal.text.austen import austen
from synreal.text.presets import PRESETS

KINDS = (
    "expected austen/PART, a .txt file or a folder of them, .jsonl or .parquet file(s), a folder of "
    f"Dataset.save_to_disk, hub:owner/name#split, or one of {', '.join(PRESETS)} as PRESET:FOLDER or "
    "hub:PRESET#split; ?column=NAME and ?config=NAME before the # name the column of texts and the part"
)
SAVED = ("state.json", "dataset_dict.json")  # one of them lies in a folder of Dataset.save_to_disk
OPTIONS = ("column", "config")


def load_texts(source: str, column: str | None = None) -> datasets.Dataset:
    """The text set that `source` names; rows without a text, or with blanks alone, are left out.

    Variables of the environment are filled in, and relative folders are looked up in the repository too. A
    .txt file has a text per paragraph (blank lines between them). Only `hub:` uses the network. `#split`
    names a split of a hub or saved set. "hub:owner/name?config=en&column=body#train" names the part of a set
    that has several, in a local copy its folder, and the column of texts, as `column` does where the source
    does not.
    Raises InputError for a source that cannot be read, holds no text, or is not UTF-8, and for values that
    are no text and rows without a cluster.
    """
    place, _, split = expanded(source).partition("#")
    place, _, query = place.partition("?")
    asked = _options(query, source)
    if place.startswith("austen/"):
        if asked or split:
            raise InputError(f"{source}: a part of austen has no splits, configs or columns to choose from")
        return austen(place.removeprefix("austen/"))  # type: ignore[arg-type]
    preset = PRESETS.get(re.sub("^hub:|:.*", "", place))
    config = asked.get("config", preset.config if preset else None)
    if place.startswith("hub:"):
        name = preset.hub if preset else place.removeprefix("hub:")
        read = _from_hub(name, config, split or "train", source)
    else:
        path = place_of(place.partition(":")[2] if preset else place)
        if config:
            path = _part_of(path, config, source, optional="config" not in asked)
        read = _from_disk(path, split or None, source)
    return _named(read, asked.get("column") or column or (preset.column if preset else "text"), source)


def _options(query: str, source: str) -> dict[str, str]:
    """What stands behind the "?" of a source, by name."""
    pairs = [part.partition("=") for part in query.split("&")] if query else []
    if wrong := [f"{name}{sign}{value}" for name, sign, value in pairs if name not in OPTIONS or not value]:
        raise InputError(f"{source}: found ?{wrong[0]}, expected {' or '.join(f'{o}=NAME' for o in OPTIONS)}")
    return {name: value for name, _, value in pairs}


def _part_of(path: Path, config: str, source: str, optional: bool) -> Path:
    """The folder of a config in a local copy; where `optional`, the folder may be the config's own."""
    if (path / config).is_dir():
        return path / config
    own = path.is_file() or any(file.suffix in READERS or file.name in SAVED for file in path.iterdir())
    if optional and own:
        return path
    found = sorted(file.name for file in path.iterdir() if file.is_dir()) if path.is_dir() else []
    raise InputError(f"{source}: found the folders {found}, expected {config}; name one as ?config=NAME")


def place_of(folder: str | Path) -> Path:
    """A file or folder, as it is or seen from the repository (zoo/...: from the zoo).

    Variables of the environment are filled in. Raises InputError, with what could be meant, where there is
    none.
    """
    found = Path(located(folder))
    if not found.exists():
        raise InputError(f"{folder}: no such file or folder; {KINDS}")
    return found


def _from_hub(name: str, config: str | None, split: str, source: str) -> datasets.Dataset:
    try:
        return datasets.load_dataset(name, config, split=split, cache_dir=str(cache_dir() / "datasets"))
    except (ConnectionError, DatasetNotFoundError, OSError) as error:
        raise InputError(
            f"{source}: the hub could not be reached or has no {name} ({error}); check the name and the "
            "network, or fetch the set on another machine and give the folder of its parquet files"
        ) from error
    except ValueError as error:
        raise InputError(f"{source}: {error}; a part is named as ?config=NAME, a split as #NAME") from error


def _from_disk(path: Path, split: str | None, source: str) -> datasets.Dataset:
    if any((path / name).exists() for name in SAVED):
        saved = datasets.load_from_disk(str(path))
        if isinstance(saved, datasets.Dataset) and split is None:
            return saved
        if isinstance(saved, datasets.Dataset) or split not in saved:
            there = "no splits" if isinstance(saved, datasets.Dataset) else f"the splits {sorted(saved)}"
            raise InputError(f"{source}: asked for split {split}, but it holds {there}; write SOURCE#SPLIT")
        return saved[split]
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.suffix in READERS)
    kinds = {file.suffix for file in files}
    if len(kinds) != 1 or not kinds <= READERS.keys():
        raise InputError(f"{source}: files of the kinds {sorted(kinds) or 'none'}; {KINDS}")
    if split:
        files = [file for file in files if file.name.startswith(split)]
        if not files:
            raise InputError(f"{source}: no file whose name begins with {split}; leave #{split} out")
    return READERS[kinds.pop()](files)


def _read_txt(files: list[Path]) -> datasets.Dataset:
    rows = []
    for file in files:
        try:
            content = file.read_bytes().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise InputError(
                f"{file}: not UTF-8 (byte {error.object[error.start]:#x} at {error.start}); convert it, for "
                "example with iconv"
            ) from error
        paragraphs = [" ".join(part.split()) for part in re.split(r"\n\s*\n", content)]
        rows += [
            {"text": text, "id": f"{file.stem}/{number:05d}", "cluster": file.stem}
            for number, text in enumerate(paragraphs)
            if text
        ]
    if not rows:
        raise InputError(f"{files[0]}: holds no text; expected paragraphs with blank lines between them")
    several = len(files) > 1  # the paragraphs of one file are all there is: no clusters among them
    ds = datasets.Dataset.from_list(rows)
    return ds if several else ds.remove_columns("cluster")


def _reader(kind: str) -> Callable[[list[Path]], datasets.Dataset]:
    def read(files: list[Path]) -> datasets.Dataset:
        if empty := [file for file in files if not file.stat().st_size]:
            raise InputError(f"{empty[0]}: found an empty file, expected rows of a {kind} file")
        paths = [str(file.resolve()) for file in files]
        try:
            return datasets.load_dataset(
                kind, data_files=paths, split="train", cache_dir=str(cache_dir() / "datasets")
            )
        except (DatasetGenerationError, pa.ArrowInvalid, ValueError, OSError) as error:
            raise InputError(
                f"{files[0]}: {len(files)} {kind} file(s) cannot be read, or not as UTF-8: "
                f"{error.__cause__ or error}"
            ) from error

    return read


READERS = {".txt": _read_txt, ".jsonl": _reader("json"), ".parquet": _reader("parquet")}


def _named(ds: datasets.Dataset, column: str, source: str) -> datasets.Dataset:
    """The set with the columns of the contract, checked."""
    if column not in ds.column_names:
        raise InputError(f"{source}: no column {column}; found {ds.column_names}; name it as ?column=NAME")
    if column != "text":
        ds = (ds.remove_columns("text") if "text" in ds.column_names else ds).rename_column(column, "text")
    texts = _strings(ds, column, source)
    kept = [row for row, text in enumerate(texts) if text and text.strip()]
    if not kept:
        raise InputError(f"{source}: found {len(ds)} rows and no text in them, expected at least one text")
    ds = ds.select(kept) if len(kept) < len(ds) else ds
    for name, values in (
        ("id", [f"row-{row:08d}" for row in range(len(ds))]),
        ("cluster", ds["id"][:] if "id" in ds.column_names else None),
        ("source", [source] * len(ds)),
    ):
        if name not in ds.column_names:
            ds = ds.add_column(name, values or ds["id"][:])
        if lacking := int(pd.isna(pd.Series(ds[name][:], dtype=object)).sum()):
            raise InputError(
                f"{source}: found {lacking} of {len(ds)} rows without a value in column {name}, expected one "
                "in each; fill the column, or leave it out"
            )
    return ds


def _strings(ds: datasets.Dataset, column: str, source: str) -> list[str | None]:
    """The values of the column text, which the source calls `column`. InputError for other than strings."""
    try:
        texts = ds["text"][:]
    except UnicodeDecodeError as error:
        raise InputError(f"{source}: column {column}: not UTF-8 ({error}); convert it") from error
    wrong = [row for row, text in enumerate(texts) if text is not None and not isinstance(text, str)]
    if wrong:
        found = f"{texts[wrong[0]]!r:.50} in row {wrong[0]}"
        raise InputError(
            f"{source}: column {column}: found {found} ({len(wrong)} such rows), expected strings; name the "
            "column of texts as ?column=NAME"
        )
    return texts
