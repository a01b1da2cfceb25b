"""The synthetic sets of P1's studies (sec. 3): each of one generator, style of prompt and guidance scale."""

import hashlib
from dataclasses import asdict
from pathlib import Path

from datasets import Dataset

from synreal.data.imageset import class_names
from synreal.data.worlds import World
from synreal.errors import InputError
from synreal.generate.prompts import Style, make_prompts
from synreal.generate.sample import Sampling, open_generator, sample_set
from synreal.paths import cache_dir, located

SHARD = 60  # images; small enough that several processes share a set of some hundred evenly


def draw_world(
    name: str,
    generator: str | Path,
    captioned: Dataset,
    style: Style,
    sampling: Sampling,
    workers: int = 1,
) -> World:
    """Images that a generator draws for the labels and captions of an image set, kept in the cache.

    generator: its folder, absolute or seen from the repository; variables of the environment are filled in.
    Drawn once for each generator (its weights), prompts and settings, shard by shard; an interrupted run goes
    on. Raises InputError when the set has no captions, and as `open_generator` and `make_prompts`.
    """
    if "caption" not in captioned.column_names:
        raise InputError(
            f"{name}: the prompts need a column caption; add_captions in generate.captioner makes it"
        )
    names, labels = class_names(captioned), captioned["label"][:]
    prompts = make_prompts([names[label] for label in labels], captioned["caption"][:], style)
    opened = open_generator(located(generator))
    parts = [opened.fingerprint(), str(asdict(sampling)), f"{SHARD} a shard", *prompts]
    key = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
    folder = cache_dir() / "drawn" / key
    images = sample_set(folder, opened, prompts, labels, names, sampling, SHARD, workers)
    return World(name, images, None, None)
