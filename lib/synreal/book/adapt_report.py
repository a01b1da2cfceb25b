"""What `synreal adapt` does and writes: a checkpoint, and its accuracies as JSON and Markdown."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pandas as pd
from datasets import Dataset

from synreal.data.tasks import Task, of_classes
from synreal.data.worlds import open_world
from synreal.errors import InputError
from synreal.evaluate.accuracy import correct
from synreal.evaluate.adapted import predict_task
from synreal.evaluate.guard import refuse_overlap
from synreal.evaluate.predictions import Predictions
from synreal.evaluate.statistics import wilson_bounds
from synreal.models.load import save_checkpoint
from synreal.retrieve.decontaminate import decontaminate
from synreal.retrieve.encoder import Encoder
from synreal.retrieve.filters import Filters
from synreal.train.adapt import Adaptation, adapt

WORK = "work"  # subfolder where an interrupted training goes on


def open_images(place: str, names: list[str], count: int) -> Dataset:
    """The labelled images at a place, those of the classes alone; scenes/SPLIT has `count` of all classes."""
    return of_classes(open_world(place, count, hierarchy="none").images, names)


def cleaned(
    sets: Mapping[str, Dataset], test: Dataset, checkpoint: str, threshold: float, out: Path
) -> list[Dataset]:
    """The sets without images that a CLIP finds as close to one of `test` as `threshold`, a cosine.

    Generated images need it as much as retrieved ones. `out` gets `rejected.csv`: per set and image the
    reason, threshold, cosine and nearest test image. Raises InputError for a threshold that is no cosine, a
    checkpoint without a text tower, and when nothing is left.
    """
    Filters(contamination=threshold)  # which refuses what is no cosine
    encoder, left, ledgers = Encoder(checkpoint), [], []
    for name, images in sets.items():
        kept, ledger, _ = decontaminate(images, {"test": test}, encoder, threshold)
        if len(kept) == 0:
            raise InputError(f"contamination: {threshold} rejects every image of {name}; give a higher one")
        left.append(kept)
        ledgers.append(ledger.assign(set=name))
    out.mkdir(parents=True, exist_ok=True)
    pd.concat(ledgers).to_csv(out / "rejected.csv", index=False)
    return left


def adapt_report(
    checkpoint: str,
    images: Dataset,
    test: Dataset,
    probe: Dataset,
    out: Path,
    adaptation: Adaptation,
    seed: int,
) -> Path:
    """Adapt, measure before and after on `test`, and write all of it to `out`; returns the Markdown page.

    `out` gets `checkpoint/` (opened by its path like any other), `accuracy.json` and `accuracy.md`. Raises
    InputError, before anything is trained, when a test image is among those learned from.
    """
    for learned in (images, probe):
        refuse_overlap(learned, test)
    task, recipe, rows = Task("test", probe, probe, test), adaptation.tuning_of(len(images), seed), []
    before = adapt(checkpoint, images, replace(recipe, steps=0))
    after = adapt(checkpoint, images, recipe, out / WORK)
    for when, classifier in (("before", before), ("after", after)):
        found = predict_task(classifier, task, adaptation, seed)
        rows += [_row(when, reading, predictions) for reading, predictions in found.items()]
    save_checkpoint(out / "checkpoint", after.module, after.card)
    shutil.rmtree(out / WORK)
    return _write(pd.DataFrame(rows), out, f"{checkpoint}, {len(images)} images, seed {seed}")


def _row(when: str, reading: str, predictions: Predictions) -> dict[str, object]:
    hit = correct(predictions)
    low, high = wilson_bounds(int(hit.sum()), len(hit))
    accuracy = float(hit.mean())
    return {
        "adaptation": when,
        "reading": reading,
        "accuracy": accuracy,
        "ci_low": low,
        "ci_high": high,
        "n": len(hit),
    }


def _write(table: pd.DataFrame, out: Path, title: str) -> Path:
    records = json.loads(table.to_json(orient="records"))  # NaN bounds become null
    (out / "accuracy.json").write_text(json.dumps({"what": title, "accuracies": records}, indent=1) + "\n")
    lines = ["| adaptation | reading | accuracy | 95 % interval | n |", "|---|---|---|---|---|"]
    for row in table.itertuples():
        interval = f"{row.ci_low:.3f} to {row.ci_high:.3f}"
        lines.append(f"| {row.adaptation} | {row.reading} | {row.accuracy:.3f} | {interval} | {row.n:,} |")
    page = out / "accuracy.md"
    page.write_text(f"# Accuracy before and after adaptation\n\n{title}\n\n" + "\n".join(lines) + "\n")
    return page
