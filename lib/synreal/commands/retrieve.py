"""`synreal retrieve`: real images of some classes, looked up in a corpus."""

import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from synreal.commands.pairs import named_places
from synreal.errors import InputError

if TYPE_CHECKING:
    from datasets import Dataset

    from synreal.retrieve.encoder import Encoder
    from synreal.retrieve.semantic import Embedded

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
    from synreal.retrieve.candidates import need_captions, refuse_unmatched
    from synreal.retrieve.corpus import MissingImages
    from synreal.retrieve.encoder import Encoder
    from synreal.retrieve.filters import Filters
    from synreal.retrieve.lookup import Lookup
    from synreal.retrieve.manifest import refuse_existing, save_retrieved
    from synreal.retrieve.match import read_classes
    from synreal.retrieve.retrieve import retrieve as run

    refuse_existing(out)
    lookup = Lookup(str(classes), matcher, nearest)
    queries = read_classes(classes)
    filters = Filters(top_share, cap, near_duplicate, contamination)
    encoder = Encoder(checkpoint, device) if checkpoint else None
    pool = _opened(corpus, scenes, seed)
    matched_by, semantic = lookup.ways("caption" in pool.column_names)
    need_captions(pool, queries, matched_by)
    if matched_by and not semantic and not allow_fewer:
        refuse_unmatched(pool, queries, matched_by)
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
