"""Target tasks: the classes that a model is adapted to, and the real images that judge it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
from datasets import Dataset, concatenate_datasets

from synreal.data.decode import from_arrays
from synreal.data.folders import classify
from synreal.data.hierarchy import SCENES_HIERARCHY
from synreal.data.imageset import class_names, load_image_set
from synreal.data.overlap import refuse_overlap
from synreal.data.published import BENCHMARKS, benchmark
from synreal.data.scenes import scene_set
from synreal.data.sprites import CLASS_NAMES, load_sprites
from synreal.errors import InputError, shorten
from synreal.paths import expanded, located

HELD_OUT = 5  # of a task of one's own without val: one training image in so many serves


@dataclass(frozen=True)
class Counts:
    """How many images of a made world there are, over all ten classes; a part of the classes has fewer."""

    train: int = 600
    val: int = 400
    test: int = 1200


@dataclass(frozen=True)
class Task:
    """Three splits of real images of the same classes; none shares an image with another."""

    name: str
    train: Dataset  # what a linear probe learns from
    val: Dataset  # what settings are chosen on
    test: Dataset  # what is reported
    reported: str = ""  # the name of that split, such as scenes/test

    @property
    def class_names(self) -> list[str]:
        """In label order."""
        return class_names(self.test)

    @property
    def clusters(self) -> pd.Series:
        """The photograph that each test image shows, by image id; without a column cluster, each its own."""
        column = "cluster" if "cluster" in self.test.column_names else "id"
        return pd.Series(self.test[column][:], index=pd.Index(self.test["id"][:], name="id"))


def open_task(source: str, counts: Counts = Counts(), seed: int = 0) -> Task:
    """The task that `source` names.

    source: `scenes` (all ten classes), `scenes:tops` or another coarse group, `catalogue` (the garments of
    the scenes upright on black, as a shop shows them: no scene at all), a task of P2 with the folder where it
    lies, such as `aircraft:$DATA`, or a name of your own with a folder, see `own_task`. Variables of the
    environment are filled in.
    counts, seed: of scenes and catalogue.
    Raises InputError for anything else, and for a group of one class, which is no task.
    """
    kind, _, detail = expanded(source).partition(":")
    if kind in BENCHMARKS and detail:
        train, val, test = (benchmark(kind, located(detail), split) for split in ("train", "val", "test"))
        return Task(kind, train, val, test, f"{kind}/test")
    if kind not in ("scenes", "catalogue") and kind and detail:
        return own_task(kind, Path(located(detail)))
    if kind not in ("scenes", "catalogue") or (kind == "catalogue" and detail):
        raise InputError(
            f"task: found {source!r}, expected scenes, scenes:GROUP, catalogue, one of "
            f"{', '.join(BENCHMARKS)} with a folder, such as aircraft:data, or NAME:FOLDER of your own images"
        )
    sizes = {"train": counts.train, "val": counts.val, "test": counts.test}
    draw = _scenes if kind == "scenes" else catalogue_set
    splits = {split: draw(split, count, seed) for split, count in sizes.items()}
    if detail:
        group = SCENES_HIERARCHY.large_group(detail)
        splits = {split: of_classes(images, group) for split, images in splits.items()}
    name = detail or {"scenes": "all classes"}.get(kind, kind)
    return Task(name, **splits, reported=f"{kind}/test")


def families(tasks: Sequence[Task]) -> list[tuple[Task, ...]]:
    """The tasks, together where one has classes of another, which comes first.

    Raises InputError when there is none, or two have the same name.
    """
    names = [task.name for task in tasks]
    if not names or len(set(names)) < len(names):
        raise InputError(f"tasks: found {names}; expected one or more of different names")
    together: list[tuple[Task, ...]] = []
    for task in sorted(tasks, key=lambda task: -len(task.class_names)):
        wholes = (n for n, own in enumerate(together) if {*task.class_names} <= {*own[0].class_names})
        home = next(wholes, None)
        if home is None:
            together.append((task,))
        else:
            together[home] += (task,)
    return together


def images_by_split(tasks: Sequence[Task]) -> dict[str, Dataset]:
    """Every image of the tasks once, by split: a task with a part of the classes repeats those of the whole.

    Columns: image, id, and cluster where all have it.
    """
    return {split: _union([getattr(task, split) for task in tasks]) for split in ("train", "val", "test")}


def _union(parts: Sequence[Dataset]) -> Dataset:
    clustered = ["cluster"] if all("cluster" in part.column_names for part in parts) else []
    every = concatenate_datasets([part.select_columns(["image", "id", *clustered]) for part in parts])
    first = pd.Series(every["id"][:]).drop_duplicates().index
    return every if len(first) == len(every) else every.select(first)


def own_task(name: str, folder: Path) -> Task:
    """Labelled images in `folder`, as `load_image_set` takes them in train, test and, if it is there, val.

    Without val, one training image in five serves as such and is not trained on. An image's id is preceded by
    the task and the split, since folders repeat the names of files.
    Raises InputError when a split is missing, knows other classes than train, or shares pixels with test.
    """
    if missing := [split for split in ("train", "test") if not (folder / split).exists()]:
        raise InputError(
            f"task {name}: {folder} lacks {' and '.join(missing)}; expected folders train and test, and val "
            f"if there is one, of labelled images (or a task known by name: {', '.join(BENCHMARKS)})"
        )
    there = [split for split in ("train", "val", "test") if (folder / split).exists()]
    splits = {split: load_image_set(folder / split) for split in there}
    names = class_names(splits["train"])
    for split, images in splits.items():
        if odd := set(class_names(images)) ^ set(names):
            raise InputError(f"task {name}: train and {split} differ in the classes {shorten(sorted(odd))}")
        ids = [f"{name}/{split}/{key}" for key in images["id"]]
        splits[split] = of_classes(images.remove_columns("id").add_column("id", ids), names)
    for split in there[:-1]:
        try:
            refuse_overlap(splits[split], splits["test"])
        except InputError as error:
            raise InputError(f"task {name}, {split}: {error}") from error
    if "val" not in splits:
        held = np.arange(len(splits["train"])) % HELD_OUT == 0
        splits["val"], splits["train"] = (splits["train"].select(np.flatnonzero(k)) for k in (held, ~held))
    return Task(name, **splits, reported=f"{name}/test")


def of_classes(images: Dataset, names: Sequence[str], asked: str = "classes") -> Dataset:
    """The images of these classes alone, labels numbered in the order of `names`.

    Raises InputError, in which `asked` says where the names are from, for a class that the set does not know,
    and when no image is left.
    """
    known = class_names(images)
    if unknown := [name for name in names if name not in known]:
        raise InputError(f"{asked}: {unknown} are not among the image set's {known}")
    labels = np.array(images.with_format("numpy")["label"][:])
    rows = np.flatnonzero(np.isin(labels, [known.index(name) for name in names]))
    if not len(rows):
        raise InputError(f"{asked}: the image set holds no image of {list(names)}")
    words = [known[label] for label in labels[rows]]
    kept = images.select(rows).remove_columns("label").add_column("label", words)
    return classify(kept, list(names), "classes")


def catalogue_set(split: str, count: int, seed: int = 0) -> Dataset:
    """Garments of one split upright on black, uint8 grey as RGB, 32x32, as many of each class.

    No garment occurs twice. Raises InputError when there are too few.
    """
    sprites, each = load_sprites(split), count // len(CLASS_NAMES)
    if each < 1 or each > (fewest := min(map(len, sprites.by_class))):
        raise InputError(
            f"catalogue: found {count} images, expected from 1 of each class to {fewest} of each in {split}"
        )
    rng = np.random.default_rng(seed)
    rows = np.concatenate([rng.permutation(rows)[:each] for rows in sprites.by_class])
    framed = np.pad(sprites.images[rows], ((0, 0), (2, 2), (2, 2)))
    columns = {
        "id": [f"catalogue-{split}-{row:05d}" for row in rows],
        "cluster": [f"{split}-{row:05d}" for row in rows],
        "source": ["real"] * len(rows),
    }
    return from_arrays(
        np.repeat(framed[..., None], 3, 3), np.repeat(np.arange(10), each), CLASS_NAMES, columns
    )


@lru_cache(maxsize=8)
def _scenes(split: str, count: int, seed: int) -> Dataset:
    """Several tasks look at parts of the same scenes: they are composed once."""
    return scene_set(split, count, seed)
