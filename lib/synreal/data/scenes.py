"""Scenes: image sets with the exact value of every factor."""

from collections.abc import Iterable, Sequence

import cv2
import numpy as np
import pandas as pd
from datasets import Dataset

from synreal.data.compose import compose, sprite_row
from synreal.data.decode import from_arrays
from synreal.data.factors import FACTOR_NAMES, Factors, captions, draw_factors, flags, stream
from synreal.data.sprites import CLASS_NAMES, load_sprites
from synreal.errors import InputError


def render(
    factors: Factors, index: int, split: str, seed: int = 0, sprites_folder: str | None = None
) -> tuple[np.ndarray, dict[str, float]]:
    """(uint8 [32, 32, 3] RGB, measured truth) of one scene with the given factors.

    The truth holds `area` (share of the frame that shows the object), `visible` (share of the object inside
    the frame and not covered) and boxes in shares of the side: the object's `x0, y0, x1, y1`, and the same
    with `person_` and `second_` in front for a person and a second object, NaN where there is none.
    """
    return compose(factors, load_sprites(split, sprites_folder), stream(seed, split, index, 1))


def scene_arrays(
    split: str, count: int, seed: int = 0, start: int = 0, sprites_folder: str | None = None
) -> tuple[np.ndarray, pd.DataFrame]:
    """Images (uint8 [count, 32, 32, 3]) and truth (one row each) of scenes `start` .. `start + count`."""
    return compose_all(
        ((i, draw_factors(i, split, seed)) for i in range(start, start + count)), split, seed, sprites_folder
    )


def compose_all(
    scenes: Iterable[tuple[int, Factors]], split: str, seed: int = 0, sprites_folder: str | None = None
) -> tuple[np.ndarray, pd.DataFrame]:
    """The same for any (index, factors): this is where an intervention on the factors enters.

    The truth's `cluster` names the photograph that a scene shows: scenes of one are not independent.
    """
    sprites = load_sprites(split, sprites_folder)
    images, rows = [], []
    for index, factors in scenes:
        image, measured = compose(factors, sprites, stream(seed, split, index, 1))
        images.append(image)
        names = {
            "id": f"{split}-{seed}-{index:06d}", "cluster": f"{split}-{sprite_row(factors, sprites):05d}"
        }  # fmt: skip
        rows.append({**names, **vars(factors), **measured, **flags(factors)})
    return np.stack(images), pd.DataFrame(rows)


def scene_set(
    split: str, count: int, seed: int = 0, start: int = 0, sprites_folder: str | None = None
) -> Dataset:
    """The scenes as an image set: image, label, id, source, cluster, caption, factor flags and exact values.

    `split` names whose sprites are shown: upstream (the generator's and CLIP's pool), train, val or test; no
    sprite is in two of them.
    """
    images, truth = scene_arrays(split, count, seed, start, sprites_folder)
    scenes = [draw_factors(i, split, seed) for i in range(start, start + count)]
    columns = truth.drop(columns="label").to_dict("list")
    columns |= {"source": ["real"] * count, "caption": captions(scenes, split, seed, start)}
    return from_arrays(images, truth["label"].to_numpy(), CLASS_NAMES, columns)


def factor_table(images: Dataset, factors: Sequence[str] = FACTOR_NAMES) -> pd.DataFrame:
    """The factors' flags of an image set that carries them: bool, one column each, indexed by image id.

    Images of which a flag is missing are left out: they are not annotated.
    Raises InputError for a column that holds anything else than true and false, or 0 and 1.
    """
    table = images.select_columns(["id", *factors]).to_pandas().set_index("id")
    for name in factors:
        if other := sorted(set(table[name].dropna().tolist()) - {0, 1}):
            raise InputError(
                f"column {name!r}, a factor's name: found {other[:3]}, expected true or false, or 0 or 1; "
                "rename it if it is something else"
            )
    return table.dropna().astype(bool)


cv2.setNumThreads(1)  # images this small are composed faster, and reproducibly, on one thread
