"""The RealTune tool: a checkpoint tuned, and a report of what that changed."""

import json
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from synreal.data.fingerprint import image_set_hash
from synreal.data.imageset import mixed_classes
from synreal.data.worlds import World
from synreal.evaluate.examine import examine
from synreal.evaluate.forgetting import BeforeAfter, forgetting, gains
from synreal.evaluate.guard import refuse_learned, refuse_overlap
from synreal.models.card import Card
from synreal.models.load import check_device
from synreal.train.curve import CURVE_FILE, LOSS_FILE
from synreal.train.processes import processes
from synreal.train.realtune import open_card, tune_checkpoint
from synreal.train.recipes import Recipe
from synreal.train.state import write_whole
from synreal.train.tune import Method
from synreal.train.watching import accuracy_watch

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
    _write(out, tuned, tables)


def _training_table(out: Path, every: int) -> Path:
    """The mean loss of every `every` steps, beside what was watched at their end."""
    losses, looks = (pd.read_csv(out / name) for name in (LOSS_FILE, CURVE_FILE))
    last = (losses["step"].add(every - 1) // every * every).clip(upper=losses["step"].max())
    mean = losses["loss"].groupby(last).mean().reset_index()
    mean.merge(looks, on="step", how="outer").to_csv(out / TRAINING, index=False)
    return out / TRAINING


def _before_after(checkpoint: str | Path, out: Path, world: World, device: str) -> BeforeAfter:
    return BeforeAfter(*(examine(str(place), world, device=device) for place in (checkpoint, out)))


def _write(out: Path, card: Card, tables: Mapping[str, Path]) -> None:
    made = {key: value for key, value in card.training.items() if key != "before"}
    frames = {title: pd.read_csv(file) for title, file in tables.items()}
    numbers = {
        file.stem: json.loads(frames[title].to_json(orient="records")) for title, file in tables.items()
    }
    write_whole(out / SUMMARY, json.dumps({"settings": made} | numbers, indent=1))
    parts = [f"# {card.name}", pd.Series(made, name="value").rename_axis("setting").to_markdown()]
    for title, frame in frames.items():
        parts += [
            f"## {title}",
            frame.dropna(axis=1, how="all").to_markdown(index=False, floatfmt=".4g", missingval=""),
        ]
    write_whole(out / REPORT, "\n\n".join(parts) + "\n")
