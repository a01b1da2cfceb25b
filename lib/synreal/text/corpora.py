"""Corpora of texts: files, published sets, and the shipped novels."""

import bz2
import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Literal, get_args

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError

from synreal.errors import InputError
from synreal.paths import cache_dir, expanded, located


@dataclass(frozen=True)
class Preset:
    """Where a text set is published on the Hugging Face hub, and what it is."""

    hub: str
    written_by: str
    licence: str
    kind: Literal["real", "synthetic"]
    config: str | None = None
    column: str = "text"


PRESETS = {
    "wikitext": Preset(
        "Salesforce/wikitext", "Wikipedia's authors", "CC-BY-SA-3.0", "real", config="wikitext-103-raw-v1"
    ),
    "openwebtext": Preset("Skylion007/openwebtext", "authors of web pages", "CC0 (the selection)", "real"),
    "tinystories": Preset("roneneldan/TinyStories", "GPT-3.5 and GPT-4", "CDLA-Sharing-1.0", "synthetic"),
    "alpaca-gpt4": Preset("vicgalle/alpaca-gpt4", "GPT-4", "CC-BY-NC-4.0", "synthetic", column="output"),
    "cosmopedia": Preset("HuggingFaceTB/cosmopedia-100k", "Mixtral-8x7B-Instruct", "Apache-2.0", "synthetic"),
}


# The text that ships: six novels of Jane Austen, in four parts that share no chapter.


Part = Literal["A", "B", "C", "D"]
SHA256 = "8986c815b9124c418be15e58ae376742d78bfc3b7424d2a0079c49dc1b1fb30a"  # of the packed file
# The parts of ten chapters that follow each other: A is what the generator learns from, B the real text of
# pretraining and tuning, C for validation, D for the test.
TURNS = "CABAADABAA"
LOOKED_AT = 450  # texts of D, drawn at random, that losses were seen of while the steps of training were set
LONGEST = 500  # characters; longer paragraphs are cut where a sentence ends


def austen(part: Part) -> datasets.Dataset:
    """The paragraphs of a part: columns text, id ("emma/12/003"), cluster (the chapter, "emma/12"), source.

    A paragraph above LONGEST characters makes several texts. D comes without the texts LOOKED_AT, which can
    test nothing any more. Public domain; see AUSTEN_SOURCE.txt.
    """
    if part not in get_args(Part):
        raise InputError(f"austen: found part {part!r}, expected one of {', '.join(get_args(Part))}")
    rows = [
        {"text": text, "id": f"{name}/{number:03d}", "cluster": name, "source": f"austen/{part}"}
        for turn, (name, texts) in enumerate(chapters().items())
        if TURNS[turn % len(TURNS)] == part
        for number, text in enumerate(texts)
    ]
    texts = datasets.Dataset.from_list(rows)
    if part == "D":
        fresh = np.random.default_rng(0).permutation(len(texts))[LOOKED_AT:]
        texts = texts.select(np.sort(fresh))
    return texts


@cache
def chapters() -> dict[str, list[str]]:
    """All 269 chapters by name, each a list of texts."""
    packed = (files("synreal.text") / "austen.txt.bz2").read_bytes()
    found = hashlib.sha256(packed).hexdigest()
    if found != SHA256:
        raise InputError(
            f"austen.txt.bz2: its sha256 is {found}, expected {SHA256}; install the package anew"
        )
    lines = bz2.decompress(packed).decode("utf-8").splitlines()
    read: dict[str, list[str]] = {}
    for line in lines:
        if line.startswith("# "):
            title, number = line[2:].lower().rsplit(", chapter ", 1)
            texts = read.setdefault(f"{title.replace(' ', '-')}/{int(number):02d}", [])
        else:
            texts.extend(pieces(line))
    return read


def pieces(paragraph: str, longest: int = LONGEST) -> Iterator[str]:
    """The paragraph, cut behind sentences so that pieces are as long as they may be.

    A single sentence above `longest` characters stays whole.
    """
    piece = ""
    for sentence in re.split(r"(?<=[.!?;\"])\s", paragraph):
        if piece and len(piece) + 1 + len(sentence) > longest:
            yield piece
            piece = ""
        piece = f"{piece} {sentence}" if piece else sentence
    yield piece


# Text sets from anywhere, under one contract: columns text, id, cluster and source.
#
# `cluster` names what several texts share that are not independent, such as the chapter they stand in;
# where
# nothing is known of that, it is the id. Synthetic sets add prompt, seed, generator, temperature and top_p.


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
            {"text": text, "id": f"{file.stem}/{number:05d}", "cluster": str(file.with_suffix(""))}
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
