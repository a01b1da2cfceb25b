"""The command `synreal`. Each command imports what it needs, so that help answers at once."""

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from synreal.commands import adapt, plan, retrieve, tune
from synreal.commands.pairs import named_places
from synreal.errors import InputError

PATIENCE = 10.0  # seconds that the other processes of a launch keep an error to themselves

app = typer.Typer(
    help="When is a synthetic image as good as a real one for training a classifier? An executable book.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Notebooks = Annotated[
    list[str] | None,
    typer.Argument(help="Names as in `synreal list`, or paths of notebooks.", show_default=False),
]
Everything = Annotated[bool, typer.Option("--all", help="Every notebook of the book.")]
Profile = Annotated[str, typer.Option(help="mini, quick, photos, paper, or the path of your own YAML file.")]
Given = Annotated[
    list[str] | None,
    typer.Option(
        "-p", "--parameter", metavar="NAME VALUE", show_default=False,
        help="Replace a parameter; VALUE is YAML, e.g. -p sizes '[100, 200]'. Repeatable. "
        "With several notebooks it reaches those that have it.",
    ),
]  # fmt: skip


class PairsCommand(TyperCommand):
    """A command whose -p takes two words, NAME VALUE; typer's own list options take one."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, join_pairs(args))


def join_pairs(arguments: Sequence[str]) -> list[str]:
    """The arguments with each `-p NAME VALUE` written as `-p NAME=VALUE`.

    An option is not taken for the value (a negative number is); write `-p NAME=--text` to mean it.
    """
    joined, rest = [], list(arguments)
    while rest:
        joined.append(rest.pop(0))
        two_words = len(rest) > 1 and "=" not in rest[0] and not rest[1].startswith(("--", "-p"))
        if joined[-1] in ("-p", "--parameter") and two_words:
            joined.append(f"{rest.pop(0)}={rest.pop(0)}")
    return joined


def split_pair(text: str) -> tuple[str, str]:
    """("name", "value") of "name=value". Raises InputError when one is missing."""
    name, equals, value = text.partition("=")
    if not (equals and name):
        raise InputError(f"-p {text}: expected a name and a value, for example -p seed 3")
    return name, value


@app.command(cls=PairsCommand)
def run(
    notebooks: Notebooks = None,
    everything: Everything = False,
    profile: Profile = "mini",
    parameter: Given = None,
    out: Annotated[
        Path | None, typer.Option(help="Run folder; an unfinished one goes on. [default: a new one]")
    ] = None,
) -> None:
    """Execute notebooks with checked parameters into a run folder.

    Exit status: 0 all cells ran, 1 a cell failed, 2 bad input (nothing ran).
    """
    given = [split_pair(text) for text in parameter or []]
    from synreal.book import runner

    paths = runner.find_notebooks(notebooks or [], everything)
    try:
        folder = runner.run(paths, profile=profile, given=given, out=out)
    except runner.CellFailed as failure:
        print(failure, file=sys.stderr)
        raise typer.Exit(1) from failure
    print(folder)


@app.command()
def book(
    run: Annotated[
        Path | None, typer.Option(help="Run folder to render. [default: the notebooks' stored outputs]")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the pages.")] = Path("_build/html"),
) -> None:
    """Render the book from a run, or from the outputs stored in the notebooks."""
    from synreal.book.render import render

    print(render(run, out))


@app.command()
def synbench(
    real: Annotated[
        str, typer.Option(help="Real images: a folder, file, hub:NAME#SPLIT, PRESET:FOLDER or scenes/SPLIT.")
    ],
    synthetic: Annotated[list[str], typer.Option(metavar="NAME=PLACE", help="A synthetic set. Repeatable.")],
    out: Annotated[Path, typer.Option(help="Folder for the report.")],
    hierarchy: Annotated[str, typer.Option(help="Coarse groups: auto, none, or a YAML file.")] = "auto",
    judge: Annotated[str | None, typer.Option(help="Checkpoint for consistency, e.g. ConvNeXt-B.")] = None,
    detector: Annotated[
        str | None, typer.Option(help="For object scale: a folder, or weights such as yolov8s-worldv2.pt.")
    ] = None,
    persons: Annotated[
        str | None, typer.Option(help="The same for persons, e.g. yolov5su.pt. [default: the detector]")
    ] = None,
    vlm: Annotated[
        str | None, typer.Option(help="Asked about blocked objects: a folder, or MODEL@URL. [default: boxes]")
    ] = None,
    thresholds: Annotated[Path | None, typer.Option(help="YAML of what has to hold, for a CI.")] = None,
    restricted: Annotated[
        bool, typer.Option("--restricted", help="The judge answers among the classes of the sets alone.")
    ] = False,
    unreadable: Annotated[
        Literal["stop", "drop"], typer.Option(help="At images that cannot be decoded: stop, or drop them.")
    ] = "stop",
    images: Annotated[int, typer.Option(help="Scenes, where a set is scenes/SPLIT.")] = 5000,
    draws: Annotated[int, typer.Option(help="Bootstrap draws.")] = 2000,
    seed: Annotated[int, typer.Option(help="Of scenes and bootstrap.")] = 0,
    device: Annotated[str, typer.Option(help="Where models run, e.g. cuda.")] = "cpu",
) -> None:
    """Say where synthetic image sets fall short of a real one, by how much, and which images show it.

    Exit status: 0 all thresholds hold or are undecided, 1 a threshold or a measure failed or a threshold has
    no interval to decide on, 2 bad input.
    """
    for option, number, least in (("--images", images, 1), ("--draws", draws, 1), ("--seed", seed, 0)):
        if not least <= number < 2**32:
            raise InputError(f"{option}: found {number}, expected {least} or more, below 2**32")
    places = named_places("--synthetic", synthetic, "sd15=images/")
    from synreal.book.synbench_page import synbench as run_synbench
    from synreal.data.imageset import class_names
    from synreal.data.worlds import open_world
    from synreal.synbench.backends import open_measures
    from synreal.synbench.thresholds import read_thresholds

    limits = read_thresholds(thresholds) if thresholds else None
    world = open_world(real, images, seed, hierarchy, unreadable=unreadable)
    others = [open_world(place, images, seed, "none", name, unreadable) for name, place in places.items()]
    names = class_names(world.images)
    measures = open_measures(names, judge, detector, persons, vlm, device, restricted, world.name)
    outcome = run_synbench(world, others, measures, out, limits, draws, seed)
    for name, measure, reason in outcome.failures:
        print(f"synreal: {measure} of {name} failed: {reason}", file=sys.stderr)
    for row in outcome.checks.itertuples():
        print(f"{row.verdict}: {row.check} of {row.synthetic} is {row.value:.3f}, expected {row.expected}")
    print(outcome.page)
    raise typer.Exit(0 if outcome.passed else 1)


@app.command("list")
def list_() -> None:
    """Show the notebooks with their parameters, defaults and meaning, and the profiles."""
    from synreal.book.listing import listing

    print(listing())


app.command("adapt")(adapt.adapt)
app.command("retrieve")(retrieve.retrieve)
app.command("plan")(plan.plan)
app.command("tune")(tune.tune)


def main() -> None:
    """The entry point: bad input is one message and exit status 2, never a traceback."""
    try:
        app()
    except InputError as error:
        _let_the_first_speak()
        print(f"synreal: {error}", file=sys.stderr)
        sys.exit(2)


def _let_the_first_speak() -> None:
    # Processes launched together mostly meet the same bad input: when the first has said it, the launcher
    # ends the others.
    if int(os.environ.get("RANK", 0)) > 0:
        time.sleep(PATIENCE)
