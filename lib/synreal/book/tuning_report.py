"""`synreal tune` and `synreal adapt`: what tuning gained and what it lost, as a report."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pandas as pd
from datasets import Dataset

from synreal.book.tables import estimates
from synreal.cache import write_text
from synreal.data.decode import image_set_hash
from synreal.data.imageset import mixed_classes
from synreal.data.overlap import refuse_overlap
from synreal.data.tasks import Task, of_classes
from synreal.data.worlds import World, open_world
from synreal.errors import InputError
from synreal.evaluate.metrics import correct
from synreal.evaluate.report import BeforeAfter, forgetting, gains
from synreal.evaluate.resampling import wilson_bounds
from synreal.models.card import Card, refuse_learned
from synreal.models.load import check_device, save_checkpoint
from synreal.models.predictions import Predictions, examine
from synreal.retrieve.embed import Encoder
from synreal.retrieve.filters import Filters, decontaminate
from synreal.train.adapt import Adaptation, adapt, predict_task
from synreal.train.finetune import Method
from synreal.train.recipes import Recipe
from synreal.train.state import CURVE_FILE, LOSS_FILE, accuracy_watch, processes
from synreal.train.tuning import open_card, tune_checkpoint

REPORT, SUMMARY = "report.md", "report.json"
TRAINING, GAINS, FORGETTING = "training.csv", "gains.csv", "forgetting.csv"
LOOKS = 10  # at the accuracy on validation images, spread over the training
WATCHED = 1_000  # validation images of a look


def realtune(
    checkpoint: str | Path,
    images: World,
    out: Path,
    method: Method,
    recipe: Recipe,
    validation: World | None = None,
    known: Mapping[str, World] | None = None,
    device: str = "cpu",
) -> Path:
    """Tune a checkpoint into folder `out`, and return the report there.

    `training.csv`: the loss over the training, and the accuracy on `validation`. `gains.csv`: what each
    accuracy on `validation` gained, overall, fine-grained and per factor, as far as the world knows them.
    `forgetting.csv`: the same overall for `known`, sets whose accuracy may be lost. `report.json`: all of it,
    and how the checkpoint was tuned.
    Of several processes, the main one alone measures and writes.
    Raises InputError for a device that is not there, for an image to judge with among those to tune on, for
    sets that the checkpoint's card says it knows, and as `tune_checkpoint` does.
    """
    check_device(device)
    card = open_card(checkpoint)
    for judged in [*([validation] if validation else []), *(known or {}).values()]:
        refuse_overlap(images.images, judged.images)
        refuse_learned(card, judged.name)
    watch = watched = None
    if validation:
        mixed = mixed_classes(validation.images)
        first = mixed.select(range(min(WATCHED, len(mixed))))
        watch, watched = accuracy_watch(card, first), image_set_hash(first)
    every = max(1, recipe.steps // LOOKS)
    tuned = tune_checkpoint(checkpoint, images.images, out, method, recipe, watch, every, watched)
    if processes().is_main_process:
        _report(checkpoint, tuned, out, every, validation, known or {}, device)
    return out / REPORT


def _report(
    checkpoint: str | Path,
    tuned: Card,
    out: Path,
    every: int,
    validation: World | None,
    known: Mapping[str, World],
    device: str,
) -> None:
    tables = {"Training": _training_table(out, every)}
    if validation:
        pair = _before_after(checkpoint, out, validation, device)
        world = (validation.hierarchy, validation.factors, validation.clusters)
        gains(pair, *world).to_csv(out / GAINS, index=False)
        tables[f"What tuning gave on {validation.name}"] = out / GAINS
    if known:
        pairs = {name: _before_after(checkpoint, out, world, device) for name, world in known.items()}
        clusters = {name: world.clusters for name, world in known.items()}
        forgetting(pairs, clusters).to_csv(out / FORGETTING, index=False)
        tables["What was known before"] = out / FORGETTING
    _write_tuning(out, tuned, tables)


def _training_table(out: Path, every: int) -> Path:
    """The mean loss of every `every` steps, beside what was watched at their end."""
    losses, looks = (pd.read_csv(out / name) for name in (LOSS_FILE, CURVE_FILE))
    last = (losses["step"].add(every - 1) // every * every).clip(upper=losses["step"].max())
    mean = losses["loss"].groupby(last).mean().reset_index()
    mean.merge(looks, on="step", how="outer").to_csv(out / TRAINING, index=False)
    return out / TRAINING


def _before_after(checkpoint: str | Path, out: Path, world: World, device: str) -> BeforeAfter:
    return BeforeAfter(*(examine(str(place), world, device=device) for place in (checkpoint, out)))


def _write_tuning(out: Path, card: Card, tables: Mapping[str, Path]) -> None:
    made = {key: value for key, value in card.training.items() if key != "before"}
    frames = {title: pd.read_csv(file) for title, file in tables.items()}
    numbers = {
        file.stem: json.loads(frames[title].to_json(orient="records")) for title, file in tables.items()
    }
    write_text(out / SUMMARY, json.dumps({"settings": made} | numbers, indent=1))
    parts = [f"# {card.name}", pd.Series(made, name="value").rename_axis("setting").to_markdown()]
    for title, frame in frames.items():
        parts += [
            f"## {title}",
            frame.dropna(axis=1, how="all").to_markdown(index=False, floatfmt=".4g", missingval=""),
        ]
    write_text(out / REPORT, "\n\n".join(parts) + "\n")


# What `synreal adapt` does and writes: a checkpoint, and its accuracies as JSON and Markdown.


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
        rows += [_row(when, protocol, predictions) for protocol, predictions in found.items()]
    save_checkpoint(out / "checkpoint", after.module, after.card)
    shutil.rmtree(out / WORK)
    return _write_adaptation(pd.DataFrame(rows), out, f"{checkpoint}, {len(images)} images, seed {seed}")


def _row(when: str, protocol: str, predictions: Predictions) -> dict[str, object]:
    hit = correct(predictions)
    low, high = wilson_bounds(int(hit.sum()), len(hit))
    what: dict[str, object] = {"adaptation": when, "protocol": protocol, "accuracy": float(hit.mean())}
    return what | {"ci_low": low, "ci_high": high, "n": len(hit)}


def _write_adaptation(table: pd.DataFrame, out: Path, title: str) -> Path:
    records = json.loads(table.to_json(orient="records"))  # NaN bounds become null
    (out / "accuracy.json").write_text(json.dumps({"what": title, "accuracies": records}, indent=1) + "\n")
    words = estimates(table.rename(columns={"accuracy": "value"}))
    shown = table[["adaptation", "protocol", "n"]].assign(**{"accuracy (95 % interval)": words})
    page = out / "accuracy.md"
    lines = ["# Accuracy before and after adaptation", title, shown.to_markdown(index=False)]
    page.write_text("\n\n".join(lines) + "\n")
    return page
