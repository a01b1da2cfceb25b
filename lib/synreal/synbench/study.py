"""Image sets measured once: a measure's values are kept on disk as soon as they are known."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from synreal.data.fingerprint import image_set_hash
from synreal.data.imageset import class_names
from synreal.data.labels import shorten
from synreal.data.worlds import World
from synreal.errors import InputError
from synreal.evaluate.statistics import cluster_codes
from synreal.paths import cache_dir
from synreal.synbench.measure import Measure

ALL = "all"  # the whole set, where tables name classes and coarse groups
REAL = "real"  # what figures call the real set, whatever its name


@dataclass(frozen=True)
class Measured:
    """What measures found on one image set.

    values: one row per image, indexed by id, one float column per measure, NaN where it is undefined.
    labels: class name by id. failures: the reason, by name of each measure that could not be taken.
    """

    world: World
    values: pd.DataFrame
    labels: pd.Series
    failures: dict[str, str]

    @property
    def name(self) -> str:
        return self.world.name


def measure_all(world: World, measures: Sequence[Measure]) -> Measured:
    """Every measure's values on the images of `world`, each computed at most once.

    A measure that fails is named in `failures`, and the others go on: nothing that was measured is lost.
    Values with images that a judge left unanswered are measured again the next time.
    """
    ids = pd.Index(world.images["id"][:], name="id")
    names = np.array(class_names(world.images))
    labels = pd.Series(names[world.images["label"][:]], ids, name="label")
    content = image_set_hash(world.images)
    columns: dict[str, pd.Series] = {}
    failures: dict[str, str] = {}
    for measure in measures:
        try:
            columns[measure.name] = _values(measure, world, content).reindex(ids)
        except Exception as error:  # noqa: BLE001  whatever happened to one measure, the others are taken
            failures[measure.name] = f"{type(error).__name__}: {error}"
    return Measured(world, pd.DataFrame(columns, index=ids), labels, failures)


def check_worlds(real: World, synthetic: Sequence[World]) -> None:
    """Raises InputError for what would spoil a comparison after everything was measured.

    That is: no synthetic set, two sets of one name, classes that differ or are in no coarse group, a class or
    coarse group called as tables call the whole set, and too few clusters for an interval.
    """
    if not synthetic:
        raise InputError("synthetic sets: found none, expected at least one")
    names = [other.name for other in synthetic]
    if bad := sorted({name for name in names if names.count(name) > 1 or name in (REAL, real.name)}):
        raise InputError(f"synthetic sets: the names {bad} are taken; expected another name for each set")
    for other in synthetic:
        check_same_classes(real, other)
    if ALL in (*class_names(real.images), *(real.hierarchy.groups if real.hierarchy else ())):
        raise InputError(
            f"{real.name}: a class or coarse group is called {ALL!r}, which stands for the whole set in "
            "every table; rename it"
        )
    if real.hierarchy is not None:
        real.hierarchy.members(class_names(real.images))
    for world in (real, *synthetic):
        cluster_codes(world.clusters, pd.Index(world.images["id"][:]))


def check_same_classes(real: World, synthetic: World) -> None:
    """Raises InputError unless both sets know the same classes, in any order."""
    known, found = set(class_names(real.images)), set(class_names(synthetic.images))
    if known != found:
        raise InputError(
            f"{synthetic.name}: class names differ from those of {real.name}: missing "
            f"{shorten(sorted(known - found))}, unknown {shorten(sorted(found - known))}; rename its folders "
            "or labels, or give class_names"
        )


def _values(measure: Measure, world: World, content: str) -> pd.Series:
    path = _path(measure, content)
    if path.exists():
        return pd.read_parquet(path)["value"]
    values = measure.values(world.images)
    if values.attrs.get("unanswered"):
        return values
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.unfinished")
    values.rename("value").to_frame().to_parquet(unfinished)
    unfinished.replace(path)
    return values


def _path(measure: Measure, content: str) -> Path:
    key = hashlib.sha256(f"{measure.name} {measure.fingerprint} {content}".encode()).hexdigest()[:16]
    return cache_dir() / "measures" / f"{measure.name.replace(' ', '_')}-{key}.parquet"
