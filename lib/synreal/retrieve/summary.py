"""The account of a retrieved set in words and tables, as Markdown."""

from collections.abc import Iterable

import pandas as pd

from synreal.retrieve.retrieve import Retrieved


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
