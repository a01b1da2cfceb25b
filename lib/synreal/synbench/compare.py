"""Synthetic sets beside a real one: measured, compared, checked against thresholds, worst images."""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
import pandas as pd
from PIL import Image
from pydantic import BaseModel, ConfigDict, FiniteFloat, TypeAdapter, ValidationError, model_validator

from synreal.cache import atomic
from synreal.data.decode import image_set_hash, to_rgb
from synreal.data.imageset import class_names
from synreal.data.worlds import World
from synreal.errors import InputError, shorten
from synreal.evaluate.distribution import compare_classes, compare_distributions, compare_proportions
from synreal.evaluate.resampling import MINIMUM_IMAGES, cluster_codes, holm, with_holm
from synreal.paths import cache_dir
from synreal.strict_yaml import read_yaml
from synreal.synbench.measures import YES_NO, Measure

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


def measure_all(world: World, measures: Sequence[Measure], strict: bool = False) -> Measured:
    """Every measure's values on the images of `world`, each computed at most once.

    A measure that fails is named in `failures`, and the others go on: nothing that was measured is lost.
    Values with images that a judge left unanswered are measured again the next time.
    strict: raise InputError at the end when a measure failed, for whoever needs all of them.
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
    if strict and failures:
        reasons = "; ".join(f"{name}: {why}" for name, why in failures.items())
        raise InputError(
            f"{world.name}: {len(failures)} measures failed: {reasons}. The others are kept; run again"
        )
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
    with atomic(path) as unfinished:
        values.rename("value").to_frame().to_parquet(unfinished)
    return values


def _path(measure: Measure, content: str) -> Path:
    key = hashlib.sha256(f"{measure.name} {measure.fingerprint} {content}".encode()).hexdigest()[:16]
    return cache_dir() / "measures" / f"{measure.name.replace(' ', '_')}-{key}.parquet"


# A real image set and synthetic ones, measure by measure (P1 sec. 3, Fig. 4a and 5).


MAIN = ("proportion_difference", "ks")  # what a measure is asked first; Holm's correction counts these
COLUMNS = [
    "synthetic", "measure", "statistic", "value", "n_real", "n_synthetic", "ci_low", "ci_high", "p", "p_holm",
    "note",
]  # fmt: skip


def compare_all(
    real: Measured,
    synthetic: Sequence[Measured],
    measures: Sequence[Measure],
    draws: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """One row per synthetic set, measure and statistic.

    Columns: synthetic, measure, statistic, value, n_real, n_synthetic, ci_low, ci_high, p, p_holm, note.
    Statistics are those of `compare_proportions` for yes-or-no measures and of `compare_distributions` for
    all others. p_holm is adjusted across the measures of one set, which ask about one statistic each: the
    difference of proportions, or the Kolmogorov-Smirnov distance. A measure that failed on either set is
    left out.
    """
    tables = [pd.DataFrame(columns=COLUMNS)]
    for other in synthetic:
        for measure in taken(real, other, measures):
            pair = (real.values[measure.name], other.values[measure.name])
            table = _compare(measure, *pair, real.world.clusters, other.world.clusters, draws, seed)
            tables.append(table.assign(synthetic=other.name, measure=measure.name))
    table = pd.concat(tables[1:] or tables, ignore_index=True)
    asked = table["p"].where(table["statistic"].isin(MAIN))
    table["p_holm"] = asked.groupby(table["synthetic"]).transform(lambda p: holm(p.to_numpy()))
    return table[COLUMNS]


def compare_by_class(
    real: Measured, synthetic: Measured, measure: Measure, draws: int = 500, seed: int = 0
) -> pd.DataFrame:
    """The same of one measure, class by class: `class` in front, p_holm across the classes of a statistic."""
    pair = (real.values[measure.name], synthetic.values[measure.name])
    labels, clusters = (real.labels, synthetic.labels), (real.world.clusters, synthetic.world.clusters)
    if measure.unit != YES_NO:
        return compare_classes(*pair, *labels, *clusters, draws=draws, seed=seed)
    tables = {
        name: _compare_class(pair[0][labels[0] == name], pair[1][labels[1] == name], *clusters)
        for name in sorted(set(real.labels) | set(synthetic.labels))
    }
    table = pd.concat(tables, names=["class"]).reset_index(level="class").reset_index(drop=True)
    return with_holm(table, "statistic")


def taken(real: Measured, synthetic: Measured, measures: Sequence[Measure]) -> list[Measure]:
    """The measures that failed on neither set."""
    return [m for m in measures if m.name in real.values and m.name in synthetic.values]


def statistics_of(measure: Measure) -> list[str]:
    """The names of the statistics that `compare_all` gives of a measure, known before it is taken."""
    nothing = pd.Series([0.0], ["image"])
    return _compare(measure, nothing, nothing, None, None, draws=1, seed=0)["statistic"].to_list()


def _compare(
    measure: Measure,
    real: pd.Series,
    synthetic: pd.Series,
    real_clusters: pd.Series | None,
    synthetic_clusters: pd.Series | None,
    draws: int,
    seed: int,
) -> pd.DataFrame:
    if measure.unit == YES_NO:
        return compare_proportions(real, synthetic, real_clusters, synthetic_clusters)
    return compare_distributions(real, synthetic, real_clusters, synthetic_clusters, draws=draws, seed=seed)


def _compare_class(
    real: pd.Series,
    synthetic: pd.Series,
    real_clusters: pd.Series | None,
    synthetic_clusters: pd.Series | None,
) -> pd.DataFrame:
    """`compare_proportions`, without bounds where a class has fewer clusters than an interval needs."""
    pairs = ((real, real_clusters), (synthetic, synthetic_clusters))
    fewest = min((own.loc[part.index].nunique() for part, own in pairs if own is not None), default=None)
    if fewest is None or fewest >= MINIMUM_IMAGES:
        return compare_proportions(real, synthetic, real_clusters, synthetic_clusters)
    table = compare_proportions(real, synthetic)
    unknown = {"ci_low": np.nan, "ci_high": np.nan, "p": np.nan}
    return table.assign(**unknown, note=f"too few clusters ({fewest} < {MINIMUM_IMAGES})")


# Thresholds that a synthetic set has to meet, for somebody's continuous integration.


class Range(BaseModel):
    """The values that pass, bounds included; None leaves a side open."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    min: FiniteFloat | None = None
    max: FiniteFloat | None = None

    @model_validator(mode="after")
    def _bounded(self) -> "Range":
        if self.min is None and self.max is None:
            raise ValueError("give min, max or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}")
        return self

    def verdict(self, low: float, high: float) -> str:
        """Decided on a whole interval: "pass" inside, "fail" outside, else "undecided"; "missing" of NaN."""
        if np.isnan(low) or np.isnan(high):
            return "missing"
        lower = -np.inf if self.min is None else self.min
        upper = np.inf if self.max is None else self.max
        if lower <= low and high <= upper:
            return "pass"
        return "fail" if high < lower or low > upper else "undecided"

    def __str__(self) -> str:
        sides = (
            self.min is not None and f"at least {self.min:g}",
            self.max is not None and f"at most {self.max:g}",
        )
        return " and ".join(side for side in sides if side)


Thresholds = Mapping[str, Range]  # by "measure/statistic", or "measure/statistic/group"


def read_thresholds(path: str | Path) -> Thresholds:
    """Thresholds from YAML such as `object scale/range_ratio: {min: 0.8}`.

    A class or coarse group may follow: `brightness/mean_difference/bag: {min: -5, max: 5}`.
    Raises InputError for a missing file, a repeated key, and for anything else than ranges by such keys.
    """
    content = read_yaml(path, "thresholds")
    try:
        return TypeAdapter(dict[str, Range]).validate_python(content)
    except ValidationError as error:
        fault = error.errors()[0]
        raise InputError(
            f"{path}: not a table of thresholds, such as `brightness/range_ratio: {{min: 0.8}}`: "
            f"{'.'.join(map(str, fault['loc'])):.100}: {fault['msg']:.300}"
        ) from error


def check_known(thresholds: Thresholds, known: Mapping[str, Mapping[str, Collection[str]]]) -> None:
    """Raises InputError for a threshold on what will not be measured, or never has an interval.

    known: by measure and statistic the classes and coarse groups it is given for, and ALL.
    """
    for key in thresholds:
        measure, _, rest = key.partition("/")
        statistic, slash, group = rest.partition("/")
        if measure not in known:
            _refuse(key, "measures", known)
        if statistic not in known[measure]:
            _refuse(key, f"statistics of {measure}", known[measure])
        groups = known[measure][statistic]
        parts = [name for name in groups if name != ALL]
        if group not in parts if slash else ALL not in groups:
            _refuse(key, f"classes or coarse groups that {statistic} is given for", parts)


def check_thresholds(table: pd.DataFrame, thresholds: Thresholds) -> pd.DataFrame:
    """One row per set and threshold: synthetic, check, expected, value, ci_low, ci_high, verdict.

    table: rows of `compare.compare_all` or `numbers.all_numbers`. The verdict is that of `Range.verdict`, and
    "missing" where the table has no such statistic of a set, or no interval of it.
    """
    columns = ["value", "ci_low", "ci_high"]
    groups = table.get("group", pd.Series(ALL, table.index))
    keys = table["measure"] + "/" + table["statistic"] + ("/" + groups).where(groups != ALL, "")
    found = table.assign(check=keys).set_index(["synthetic", "check"])[columns].astype(float)
    wanted = pd.MultiIndex.from_product([table["synthetic"].unique(), thresholds], names=found.index.names)
    rows = found.reindex(wanted).assign(known=wanted.isin(found.index)).reset_index()
    rows["expected"] = [str(thresholds[key]) for key in rows["check"]]
    rows["verdict"] = [
        thresholds[row.check].verdict(row.ci_low, row.ci_high) if row.known else "missing"
        for row in rows.itertuples(index=False)
    ]
    return rows[["synthetic", "check", "expected", *columns, "verdict"]]


def _refuse(key: str, what: str, known: Collection[str]) -> NoReturn:
    raise InputError(f"threshold {key!r}: expected one of the {what}, {shorten(list(known), 60)}")


# The images behind a number: those at the ends of a measure.


def extremes(measured: Measured, measure: str, count: int = 8, seed: int = 0) -> pd.DataFrame:
    """The `count` images with the lowest and the `count` with the highest value, in ascending order.

    Columns row (place in the image set), value, end ("lowest" or "highest"); indexed by image id. Of equal
    values the seed decides, so that a yes-or-no measure shows a random sample of both answers. Images without
    a value are left out; fewer images than asked for give fewer rows, none of them twice.
    """
    values = measured.values[measure]
    table = pd.DataFrame({"row": np.arange(len(values)), "value": values}).dropna()
    table = table.sample(frac=1, random_state=seed).sort_values("value", kind="stable")
    half = min(count, len(table) // 2)
    ends = {"lowest": table.head(half), "highest": table.tail(half)}
    return pd.concat([rows.assign(end=end) for end, rows in ends.items()])


def pictures(measured: Measured, rows: pd.Series) -> list[Image.Image]:
    """The RGB images at these places of the set."""
    return [to_rgb(image) for image in measured.world.images.select(rows.to_list())["image"]]


def ends(
    sets: Mapping[str, Measured], measure: str, count: int = 5, seed: int = 0
) -> dict[str, list[tuple[Image.Image, str]]]:
    """By set, the pictures of its `extremes`, each with its value in words."""
    rows = {name: extremes(part, measure, count, seed) for name, part in sets.items()}
    return {
        name: list(zip(pictures(sets[name], found["row"]), found["value"].map("{:.3g}".format), strict=True))
        for name, found in rows.items()
    }
