"""A retrieved set on disk, with the manifest that says how it came about."""

import errno
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from datasets import Dataset

from synreal.cache import atomic
from synreal.data.overlap import try_pixel_hashes
from synreal.errors import InputError, shorten
from synreal.retrieve.corpus import check_corpus
from synreal.retrieve.retrieve import Retrieved, labelled_rows


def summary(retrieved: Retrieved, corpus: str) -> str:
    """What was asked, what was found by which way, and what was rejected and why."""
    settings, images = retrieved.settings, retrieved.images
    kept_by = pd.crosstab(_class_names(retrieved), pd.Series(images["matched_by"][:], name="found by"))
    lines = [
        f"# {len(images)} images of {len(retrieved.counts)} classes",
        f"Retrieved from {corpus}; {settings['per_class']} per class were asked for.",
        "## Candidates",
        _table(retrieved.counts.reset_index()),
        "## How the images were found",
        _table(retrieved.ways),
        "## How the images kept were found",
        _table(kept_by.reset_index()),
    ]
    if settings.get("recall"):
        told = ", ".join(f"{share:.1%} in the {where} index" for where, share in settings["recall"].items())
        lines.append(f"Of the truly nearest neighbours the search found {told}.")
    if settings["against"]:
        sets = ", ".join(f"{name} ({n} images)" for name, n in settings["against"].items())
        lines += [
            "## How close to the sets it must not overlap",
            f"Compared with {sets}: images that a threshold would reject (descriptor: "
            f"{settings['descriptor'] or 'none, identical pixels alone'}).",
            _table(retrieved.sensitivity),
        ]
    return "\n\n".join(lines) + "\n"


def _class_names(retrieved: Retrieved) -> pd.Series:
    names, images = retrieved.images.features["label"].names, retrieved.images
    return pd.Series([names[label] for label in images["label"][:]], name="class")


def _table(frame: pd.DataFrame) -> str:
    def line(cells: Iterable[object]) -> str:
        return f"| {' | '.join(_cell(cell) for cell in cells)} |"

    return "\n".join(
        [line(frame.columns), line(["---"] * frame.shape[1]), *map(line, frame.itertuples(False))]
    )


def _cell(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value).replace("|", "\\|")


# A retrieved set on disk with its provenance, so that it can be published and rebuilt from a corpus.


MANIFEST = "manifest.json"
ROWS_PER_FILE = 10_000
KEPT = ("corpus_id", "class", "matched_by", "score", "sha256", "url")  # url where the corpus has one


def save_retrieved(retrieved: Retrieved, folder: str | Path, corpus: str) -> None:
    """Writes the image set and its account into a new folder, which appears whole; `corpus` is its place.

    data-*.parquet: the images, as `load_image_set(folder)` reads them; the rest is what `save_account` says.
    """
    folder = Path(folder)
    refuse_existing(folder)
    try:
        with atomic(folder) as partial:
            partial.mkdir()
            for number, start in enumerate(range(0, len(retrieved.images), ROWS_PER_FILE)):
                part = retrieved.images.select(
                    range(start, min(start + ROWS_PER_FILE, len(retrieved.images)))
                )
                part.to_parquet(partial / f"data-{number:05d}.parquet")
            save_account(retrieved, partial, corpus)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):  # another process was faster
            refuse_existing(folder)
        raise


def save_account(retrieved: Retrieved, folder: Path, corpus: str) -> None:
    """Writes how a set came about into a folder: enough to make it again, without its images.

    manifest.json: what was asked, and a row per image: its id in the corpus, class, sha256 of its pixels.
    ledger.csv, counts.csv, ways.csv, sensitivity.csv: the tables of `Retrieved`. summary.md: all in words.
    """
    retrieved.ledger.to_csv(folder / "ledger.csv", index=False)
    retrieved.counts.to_csv(folder / "counts.csv")
    retrieved.ways.to_csv(folder / "ways.csv", index=False)
    retrieved.sensitivity.to_csv(folder / "sensitivity.csv", index=False)
    text = json.dumps(manifest_of(retrieved, corpus), indent=1, ensure_ascii=False)
    (folder / MANIFEST).write_text(text, encoding="utf-8")
    (folder / "summary.md").write_text(summary(retrieved, corpus), encoding="utf-8")


def refuse_existing(folder: str | Path) -> None:
    """Raise InputError when there is something in this folder already."""
    if Path(folder).exists() and (not Path(folder).is_dir() or any(Path(folder).iterdir())):
        raise InputError(f"{folder}: is there already and not empty; name a new folder for the retrieved set")


def manifest_of(retrieved: Retrieved, corpus: str) -> dict[str, Any]:
    """All that is needed to make the set again from the same corpus, and to tell whether it is the same."""
    images = retrieved.images
    names = np.asarray(images.features["label"].names, dtype=object)
    columns = [name for name in KEPT if name in images.column_names]
    table = pd.DataFrame({name: images[name][:] for name in columns})
    table.insert(1, "class", names[np.asarray(images["label"][:], int)])
    table["score"] = table["score"].astype(object).where(table["score"].notna(), None)
    return {
        "corpus": corpus,
        "class_names": names.tolist(),
        **retrieved.settings,
        "images": table.to_dict("records"),
    }


def rebuild(manifest: str | Path, corpus: Dataset) -> Dataset:
    """The set that a manifest (or the folder that holds it) describes, taken from a corpus.

    Raises InputError that says how many of its images the corpus lacks, cannot be decoded, or have other
    pixels now, and names the first.
    """
    file = Path(manifest) / MANIFEST if Path(manifest).is_dir() else Path(manifest)
    if not file.is_file():
        raise InputError(f"{file}: no such file; expected the manifest of a retrieved set")
    content = json.loads(file.read_text(encoding="utf-8"))
    check_corpus(corpus)
    table = pd.DataFrame(content["images"])
    table["row"] = pd.Index(corpus["id"][:]).get_indexer(table["corpus_id"])
    _refuse(table["row"] < 0, table, file, "are not in the corpus")
    hashes, reasons = try_pixel_hashes(corpus.select(table["row"]))
    _refuse(table.index.isin(reasons), table, file, "cannot be decoded")
    _refuse(table["sha256"] != hashes, table, file, "have other pixels than when the set was made")
    table["label"] = pd.Index(content["class_names"]).get_indexer(table["class"])
    return labelled_rows(corpus, table, content["class_names"])


def _refuse(bad: Any, table: pd.DataFrame, file: Path, what: str) -> None:
    if np.any(bad):
        ids = table.loc[bad, "corpus_id"].tolist()
        raise InputError(f"{file}: {len(ids)} of {len(table)} images {what}: {shorten(ids)}")
