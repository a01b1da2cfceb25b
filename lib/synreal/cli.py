"""The command `synreal`. Each command imports what it needs, so that help answers at once."""

import errno
import os
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn, cast

import typer
from typer.core import TyperCommand

from synreal.errors import InputError

if TYPE_CHECKING:
    from datasets import Dataset

    from synreal.retrieve.embed import Encoder
    from synreal.retrieve.semantic import Embedded
    from synreal.train.finetune import Method


def named_places(option: str, texts: Sequence[str], example: str) -> dict[str, str]:
    """The places by name. Raises InputError when a name or place is missing, and for a repeated name."""
    pairs = [_named_place(option, text, example) for text in texts]
    if twice := [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]:
        raise InputError(f"{option}: the names {twice} are taken; expected another name for each place")
    return dict(pairs)


def _named_place(option: str, text: str, example: str) -> tuple[str, str]:
    name, equals, place = text.partition("=")
    if not (equals and name and place):
        raise InputError(f"{option} {text}: expected a name and a place, for example {option} {example}")
    return name, place


# `synreal adapt`: what a set of training images is worth to a pretrained classifier, as P2 measures it.


def adapt(
    checkpoint: Annotated[
        str, typer.Option(help="Classifier to adapt: a name, folder or card; CLIP as in P2.")
    ],
    images: Annotated[str, typer.Option(help="Labelled images: a folder, file or hub:NAME#SPLIT.")],
    classes: Annotated[Path, typer.Option(help="YAML list of class names, as for `synreal retrieve`.")],
    out: Annotated[Path, typer.Option(help="Folder for checkpoint and report.")],
    test: Annotated[str, typer.Option(help="Labelled images that accuracy is reported on.")],
    probe: Annotated[
        str | None,
        typer.Option(help="Labelled images that the linear probe learns from. [default: --images]"),
    ] = None,
    contamination: Annotated[
        float | None,
        typer.Option(help="Cosine, by --checkpoint, at which an image learned from counts as a test image."),
    ] = None,
    recipe: Annotated[str, typer.Option(help="P2, 'P2 ImageNet' or scenes.")] = "scenes",
    seed: Annotated[int, typer.Option(help="Of the order of images.")] = 0,
    count: Annotated[int, typer.Option(help="Scenes, where a set is scenes/SPLIT.")] = 1000,
) -> None:
    """Adapt a classifier to images and report its accuracy on others, before and after.

    Zero-shot: by the tuned head, which starts as class texts. Probe: by a linear classifier of the features.
    A test image among the images to learn from is refused; with --contamination, what is as close to one is
    left out, and listed in rejected.csv. Exit status: 0 done, 2 bad input.
    """
    from synreal.book.tuning_report import adapt_report, cleaned, open_images
    from synreal.retrieve.match import read_classes
    from synreal.train.adapt import adaptation_named

    names = [query.name for query in read_classes(classes)]
    learned, shown, probed = (open_images(place, names, count) for place in (images, test, probe or images))
    if contamination is not None:
        learned, probed = cleaned({"images": learned, "probe": probed}, shown, checkpoint, contamination, out)
    print(adapt_report(checkpoint, learned, shown, probed, out, adaptation_named(recipe), seed))


# `synreal plan`: which mix of real labels and synthetic images a budget should buy.


Measured = Annotated[
    Path,
    typer.Argument(
        help="CSV or parquet: n_real, n_syn, accuracy, perhaps seed; a row a training.", show_default=False
    ),
]


def plan(
    measured: Measured,
    price_real: Annotated[float, typer.Option(help="Of one real label, in any currency.")],
    price_synthetic: Annotated[float, typer.Option(help="Of one synthetic image.")],
    budget: Annotated[float | None, typer.Option(help="Money to spend: the most accurate mix.")] = None,
    target: Annotated[float | None, typer.Option(help="Accuracy to reach: the cheapest mix.")] = None,
) -> None:
    """Recommend how many real labels and synthetic images to buy, from accuracies measured on some mixes.

    Train on a few mixes first (real only, synthetic only, both), each with three seeds. Where a column seed
    has each seed once for each mix, trainings of one seed count as alike, otherwise all as independent.
    Plans stay within the numbers of images that were measured.
    Exit status: 0 planned, 1 no mix reaches the target, 2 bad input.
    """
    from synreal.errors import InputError
    from synreal.evaluate.planner import (
        BudgetPlan,
        Prices,
        check_target,
        fit_mixes,
        plan_for_budget,
        plan_for_target,
        plan_table,
        read_mixes,
    )

    prices = Prices(price_real, price_synthetic)
    if (budget is None) == (target is None):
        raise InputError("plan: give either --budget or --target, not both and not neither")
    if target is not None:
        check_target(target)
    law = fit_mixes(read_mixes(measured))
    if budget is not None:
        found: BudgetPlan | None = plan_for_budget(law, prices, budget)
    elif target is not None:
        found = plan_for_target(law, prices, target)
    if found is None:
        most = f"{law.most_real:,} real and {law.most_synthetic:,} synthetic images"
        print(f"No mix of up to {most} reaches an accuracy of {target}.")
        raise typer.Exit(1)
    print(plan_table(found).to_string(header=False))
    print("95 % intervals over trainings; that the test images are a sample, too, is not in them.")
    print(f"The law misses the mean accuracy of a mix by {law.miss:.3f} at most.")


# `synreal retrieve`: real images of some classes, looked up in a corpus.


Matcher = Literal["tokens", "phrase", "regex", "substring", "none"]
Sets = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=PLACE", help="A set that must not leak into this one. Repeatable."),
]
Checkpoint = Annotated[
    str | None, typer.Option(help="An open_clip card; embeds the corpus, for all that follows.")
]
Column = Annotated[
    str | None, typer.Option(help="Image embeddings that the corpus carries, of this checkpoint.")
]
Neighbours = Annotated[
    int, typer.Option(min=0, help="Neighbours per template, among images and any captions; 0 for none.")
]
Contamination = Annotated[
    float | None, typer.Option(help="Cosine at which an image counts as one of those sets.")
]
Fewer = Annotated[
    bool, typer.Option("--allow-fewer", help="Go on with classes that have fewer images, or none.")
]


def retrieve(
    corpus: Annotated[str, typer.Option(help="Parquet files, WebDataset tars, a set, or scenes/upstream.")],
    classes: Annotated[Path, typer.Option(help="YAML list: names, or name, synonyms, exclude, patterns.")],
    per_class: Annotated[int, typer.Option(min=1, help="Images of each class.")],
    out: Annotated[Path, typer.Option(help="New folder for the image set and its account.")],
    matcher: Annotated[Matcher, typer.Option(help="How captions match.")] = "tokens",
    checkpoint: Checkpoint = None,
    embeddings: Annotated[Path | None, typer.Option(help="Where they are kept. [default: cache]")] = None,
    embedding_column: Column = None,
    nearest: Neighbours = 0,
    top_share: Annotated[float | None, typer.Option(help="Share of a class kept by CLIP score.")] = None,
    cap: Annotated[int | None, typer.Option(help="Most candidates of a class.")] = None,
    near_duplicate: Annotated[float | None, typer.Option(help="Cosine at which images count as one.")] = None,
    against: Sets = None,
    contamination: Contamination = None,
    scenes: Annotated[int, typer.Option(help="Scenes, where a set is scenes/SPLIT.")] = 5000,
    seed: Annotated[int, typer.Option(help="Of the choice among what is left, and of scenes.")] = 0,
    allow_fewer: Fewer = False,
    device: Annotated[str, typer.Option(help="Where the checkpoint runs, e.g. cuda.")] = "cpu",
) -> None:
    """Retrieve real images of given classes from a corpus, with an account of every image rejected.

    Exit status: 0 the set is written, 2 bad input (such as more images asked for than there are).
    """
    places = named_places("--against", against or [], "test=photos/")
    _check_contamination(contamination, places)
    _check_checkpoint(
        checkpoint, embeddings=embeddings, embedding_column=embedding_column, nearest=nearest or None,
        top_share=top_share, near_duplicate=near_duplicate, contamination=contamination,
    )  # fmt: skip
    from synreal.data.worlds import open_world
    from synreal.retrieve.corpus import MissingImages
    from synreal.retrieve.embed import Encoder
    from synreal.retrieve.filters import Filters
    from synreal.retrieve.manifest import refuse_existing, save_retrieved
    from synreal.retrieve.match import read_classes
    from synreal.retrieve.retrieve import check_captions
    from synreal.retrieve.retrieve import retrieve as run
    from synreal.retrieve.semantic import Lookup

    refuse_existing(out)
    lookup = Lookup(str(classes), matcher, nearest)
    queries = read_classes(classes)
    filters = Filters(top_share, cap, near_duplicate, contamination)
    encoder = Encoder(checkpoint, device) if checkpoint else None
    pool = _opened(corpus, scenes, seed)
    matched_by, semantic = lookup.ways("caption" in pool.column_names)
    check_captions(pool, queries, lookup, allow_fewer)
    others = {n: open_world(place, scenes, seed, "none", n).images for n, place in places.items()}
    captions = semantic is not None and semantic.captions
    embedded = _embedded(pool, encoder, embeddings, corpus, captions, embedding_column)
    with warnings.catch_warnings(action="ignore", category=MissingImages):  # said above
        found = run(
            pool, queries, per_class, matcher=matched_by, semantic=semantic, embedded=embedded,
            filters=filters, against=others, seed=seed, allow_fewer=allow_fewer,
        )  # fmt: skip
    save_retrieved(found, out, corpus)
    print(f"{found.counts.to_string()}\n{out}")


def _check_contamination(threshold: float | None, places: dict[str, str]) -> None:
    if threshold is not None and not places:
        raise InputError(f"--contamination {threshold}: found no set to compare with; give one as --against")


def _check_checkpoint(checkpoint: str | None, **needing: object) -> None:
    """Raise InputError when there is no checkpoint for the options that need one."""
    given = [f"--{name.replace('_', '-')}" for name, value in needing.items() if value is not None]
    if given and checkpoint is None:
        raise InputError(
            f"{', '.join(given)}: found no checkpoint to embed the corpus with; give --checkpoint, the card "
            "of an open_clip model"
        )


def _embedded(
    pool: "Dataset",
    encoder: "Encoder | None",
    folder: Path | None,
    corpus: str,
    captions: bool,
    column: str | None,
) -> "Embedded | None":
    """The images of the corpus, and their captions where asked for, in `folder` or the cache."""
    from synreal.retrieve.semantic import default_folder, embed_corpus

    if encoder is None:
        return None
    return embed_corpus(pool, encoder, folder or default_folder(encoder, corpus), captions, column)


def _opened(corpus: str, scenes: int, seed: int) -> "Dataset":
    """The corpus; rows without an image are listed on the error stream."""
    from synreal.retrieve.corpus import MissingImages, open_corpus

    with warnings.catch_warnings(record=True, action="always", category=MissingImages) as missing:
        pool = open_corpus(corpus, scenes, seed)
    for warning in missing:
        print(f"synreal: {warning.message}", file=sys.stderr)
    return pool


# `synreal tune`: repair a classifier with a little labelled data, and say what that changed.


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
    from synreal.book.tuning_report import realtune
    from synreal.cache import only_here
    from synreal.data.worlds import open_world
    from synreal.train.recipes import changed_recipe
    from synreal.train.state import processes
    from synreal.train.tuning import open_card

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
    with only_here(out) if together.is_main_process else nullcontext():
        report = realtune(checkpoint, world, out, named, chosen, tried, others, device)
    if together.is_main_process:
        print(report)


# The command `synreal`. Each command imports what it needs, so that help answers at once.


UNEXPECTED = 70  # exit status, as in BSD's sysexits.h
# Of the system's errors, those that the user can mend by naming another place.
NO_PLACE = {
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR,
    errno.ENAMETOOLONG,
}  # fmt: skip
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
    from synreal.book import run

    paths = run.find_notebooks(notebooks or [], everything)
    try:
        folder = run.run(paths, profile=profile, given=given, out=out)
    except run.CellFailed as failure:
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
    from synreal.book.synbench_report import synbench as run_synbench
    from synreal.data.imageset import class_names
    from synreal.data.worlds import open_world
    from synreal.synbench.backends import open_measures
    from synreal.synbench.compare import read_thresholds

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


@app.command()
def get(
    name: Annotated[str, typer.Argument(help="What to fetch: photos.")],
    into: Annotated[
        Path | None, typer.Option(help="Folder for it. [default: SYNREAL_PHOTOS, or your own folder of data]")
    ] = None,
    source: Annotated[
        Path | None, typer.Option("--from", help="A folder that holds the files already; nothing is fetched.")
    ] = None,
) -> None:
    """Fetch the world of photographs: CIFAR-10, and Stable Diffusion's images of its classes (CIFAKE).

    Exit status: 0 it is there, 2 bad input, or no network.
    """
    if name != "photos":
        raise InputError(f"get {name}: expected photos")
    from synreal.data.photos import get_photos

    print(get_photos(into, source))


@app.command("list")
def list_() -> None:
    """Show the notebooks with their parameters, defaults and meaning, and the profiles."""
    from synreal.book.parameters import listing

    print(listing())


app.command("adapt")(adapt)
app.command("retrieve")(retrieve)
app.command("plan")(plan)
app.command("tune")(tune)


def main() -> None:
    """The entry point. Exit status 2: bad input, one message; 70: an unexpected error, and its log."""
    try:
        app()
    except InputError as error:
        _let_the_first_speak()
        print(f"synreal: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.errno not in NO_PLACE:
            _unexpected(error)
        place = f"{error.filename}: " if error.filename else ""
        print(f"synreal: {place}{error.strerror}; name another place, or make room there", file=sys.stderr)
        sys.exit(2)
    except Exception as error:  # noqa: BLE001  a verdict has exit status 1, so a crash must not
        _unexpected(error)


def _unexpected(error: Exception) -> NoReturn:
    with tempfile.NamedTemporaryFile("w", prefix="synreal-", suffix=".log", delete=False) as log:
        traceback.print_exception(error, file=log)
    print(f"synreal: unexpected {type(error).__name__}: {error}\nThe log: {log.name}", file=sys.stderr)
    sys.exit(UNEXPECTED)


def _let_the_first_speak() -> None:
    # Processes launched together mostly meet the same bad input: when the first has said it, the launcher
    # ends the others.
    if int(os.environ.get("RANK", 0)) > 0:
        time.sleep(PATIENCE)
