"""`synreal tune`: repair a classifier with a little labelled data, and say what that changed."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from synreal.commands.pairs import named_places

if TYPE_CHECKING:
    from synreal.train.tune import Method

VALIDATION = 2_000  # scenes, where a set to measure on is scenes/SPLIT


def tune(
    checkpoint: Annotated[str, typer.Option(help="Classifier to tune: a name, a folder or a card.")],
    images: Annotated[
        str,
        typer.Option(help="Labelled images: a folder, file, hub:NAME#SPLIT, PRESET:FOLDER or scenes/SPLIT."),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the tuned checkpoint; an unfinished one goes on.")],
    method: Annotated[str, typer.Option(help="full, head, lp-ft, wise-ft, flyp or lora.")] = "full",
    recipe: Annotated[
        str | None, typer.Option(help="A recipe by name, such as p1-vit. [default: by the checkpoint]")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="In place of the recipe's.")] = None,
    warmup_steps: Annotated[
        int | None, typer.Option(help="In place of the recipe's; fewer than the steps.")
    ] = None,
    learning_rate: Annotated[float | None, typer.Option(help="In place of the recipe's.")] = None,
    micro_batch: Annotated[
        int | None, typer.Option(help="Images on a GPU at once, where a batch does not fit.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the order of images and their augmentation.")] = 0,
    validation: Annotated[
        str | None, typer.Option(help="Images of the same kind, to measure what was gained.")
    ] = None,
    known: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=PLACE", help="Images whose accuracy may be lost. Repeatable."),
    ] = None,
    count: Annotated[int, typer.Option(help="How many scenes, for scenes/SPLIT.")] = 500,
    device: Annotated[str, typer.Option(help="Where answers are computed, e.g. cuda.")] = "cpu",
) -> None:
    """Tune a classifier on a few labelled images and report what changed.

    The folder becomes a checkpoint with its card and curves; report.md, report.json and CSV files say what
    was gained and what was lost.
    For several GPUs: accelerate launch --multi_gpu -m synreal tune ...
    Exit status: 0 done, 2 bad input.
    """
    places = named_places("--known", known or [], "imagenet=images/")
    from synreal.data.worlds import open_world
    from synreal.evaluate.tuning_report import realtune
    from synreal.train.processes import processes
    from synreal.train.realtune import open_card
    from synreal.train.recipes import changed_recipe

    together = processes()
    world = open_world(images, count, name=images)
    chosen = changed_recipe(
        open_card(checkpoint), len(world.images), recipe,
        steps=steps, warmup_steps=warmup_steps, learning_rate=learning_rate, micro_batch=micro_batch,
        seed=seed,
    )  # fmt: skip
    tried = open_world(validation, VALIDATION) if validation else None
    others = {name: open_world(place, VALIDATION) for name, place in places.items()}
    named = cast("Method", method)  # `tune` refuses another, and names those there are
    report = realtune(checkpoint, world, out, named, chosen, tried, others, device)
    if together.is_main_process:
        print(report)
