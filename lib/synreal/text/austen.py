"""The text that ships: six novels of Jane Austen, in four parts that share no chapter."""

import bz2
import hashlib
import re
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from typing import Literal, get_args

import datasets
import numpy as np

from synreal.errors import InputError

Part = Literal["A", "B", "C", "D"]
SHA256 = "8986c815b9124c418be15e58ae376742d78bfc3b7424d2a0079c49dc1b1fb30a"  # of the packed file
# The parts of ten chapters that follow each other: A is what the generator learns from, B the real text of
# pretraining and tuning, C for validation, D for the test.
TURNS = "CABAADABAA"
LOOKED_AT = 450  # texts of D, drawn at random, that losses were seen of while the steps of training were set
LONGEST = 500  # characters; longer paragraphs are cut where a sentence ends


def austen(part: Part) -> datasets.Dataset:
    """The paragraphs of a part: columns text, id ("emma/12/003"), cluster (the chapter, "emma/12"), source.

    A paragraph above LONGEST characters makes several texts. D comes without the texts LOOKED_AT, which can
    test nothing any more. Public domain; see AUSTEN_SOURCE.txt.
    """
    if part not in get_args(Part):
        raise InputError(f"austen: found part {part!r}, expected one of {', '.join(get_args(Part))}")
    rows = [
        {"text": text, "id": f"{name}/{number:03d}", "cluster": name, "source": f"austen/{part}"}
        for turn, (name, texts) in enumerate(chapters().items())
        if TURNS[turn % len(TURNS)] == part
        for number, text in enumerate(texts)
    ]
    texts = datasets.Dataset.from_list(rows)
    if part == "D":
        fresh = np.random.default_rng(0).permutation(len(texts))[LOOKED_AT:]
        texts = texts.select(np.sort(fresh))
    return texts


@cache
def chapters() -> dict[str, list[str]]:
    """All 269 chapters by name, each a list of texts."""
    packed = (files("synreal.text") / "austen.txt.bz2").read_bytes()
    found = hashlib.sha256(packed).hexdigest()
    if found != SHA256:
        raise InputError(
            f"austen.txt.bz2: its sha256 is {found}, expected {SHA256}; install the package anew"
        )
    lines = bz2.decompress(packed).decode("utf-8").splitlines()
    read: dict[str, list[str]] = {}
    for line in lines:
        if line.startswith("# "):
            title, number = line[2:].lower().rsplit(", chapter ", 1)
            texts = read.setdefault(f"{title.replace(' ', '-')}/{int(number):02d}", [])
        else:
            texts.extend(pieces(line))
    return read


def pieces(paragraph: str, longest: int = LONGEST) -> Iterator[str]:
    """The paragraph, cut behind sentences so that pieces are as long as they may be.

    A single sentence above `longest` characters stays whole.
    """
    piece = ""
    for sentence in re.split(r"(?<=[.!?;\"])\s", paragraph):
        if piece and len(piece) + 1 + len(sentence) > longest:
            yield piece
            piece = ""
        piece = f"{piece} {sentence}" if piece else sentence
    yield piece
