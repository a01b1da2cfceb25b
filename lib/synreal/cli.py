"""The command `synreal`. Each command imports what it needs, so that help answers at once."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from synreal.errors import InputError

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


@app.command("list")
def list_() -> None:
    """Show the notebooks with their parameters, defaults and meaning, and the profiles."""
    from synreal.book.listing import listing

    print(listing())


def main() -> None:
    """The entry point: bad input is one message and exit status 2, never a traceback."""
    try:
        app()
    except InputError as error:
        print(f"synreal: {error}", file=sys.stderr)
        sys.exit(2)
