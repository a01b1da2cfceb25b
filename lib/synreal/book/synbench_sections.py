"""What the SynBench page shows of each measure: figures with their words, and tables."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.text import Text

from synreal.book.boxes import boxes_in_words, quantile_boxes
from synreal.book.confusion_maps import confusion_maps, confusions_in_words
from synreal.book.plots import PALETTE, forest
from synreal.book.sheets import worst_cases
from synreal.book.synbench_tables import heading, tables
from synreal.evaluate.predictions import Predictions
from synreal.synbench.extremes import extremes, pictures
from synreal.synbench.grained import SIDES, disagreements, group_confusions
from synreal.synbench.measure import YES_NO, Measure
from synreal.synbench.study import REAL, Measured

ENDS = 5  # images at each end of a measure
GROUPS = 6  # coarse groups drawn: those that lose most
PANELS = {
    "unrestricted_consistency": "judged as labelled",
    "inside_share": "of the rest, judged\nas another class of the group",
}
DOTS_PER_INCH = 96  # of a page, in CSS


@dataclass(frozen=True)
class Picture:
    """A figure as a page embeds it."""

    png: str  # base64
    width: int  # CSS pixels
    alt: str
    caption: str

    @classmethod
    def of(cls, figure: Figure, alt: str, caption: str) -> Self:
        for text in figure.findobj(lambda artist: isinstance(artist, Text) and "$" in artist.get_text()):
            text.set_wrap(False)  # type: ignore[attr-defined]  # or it is measured as a formula, even so
        stream = io.BytesIO()
        figure.savefig(stream, format="png", bbox_inches="tight")
        width = int.from_bytes(stream.getvalue()[16:20], "big") * DOTS_PER_INCH / figure.dpi
        return cls(base64.b64encode(stream.getvalue()).decode(), round(width), alt, caption)


@dataclass(frozen=True)
class Section:
    """A measure on the page. tables: by caption, of words."""

    heading: str
    pictures: list[Picture]
    tables: dict[str, pd.DataFrame]


def section(
    measure: Measure,
    real: Measured,
    synthetic: Sequence[Measured],
    table: pd.DataFrame,
    judged: Mapping[str, Predictions] | None,
    seed: int,
) -> Section:
    """table: of `numbers.all_numbers`. judged: the judge's answers by set, where the measure is a judge's."""
    sets = {REAL: real} | {part.name: part for part in synthetic}
    sets = {name: part for name, part in sets.items() if measure.name in part.values}
    rows = table[table["measure"] == measure.name]
    found = [] if measure.unit == YES_NO else _boxes(measure, sets)
    if judged:
        answered = {name: judged[part.name] for name, part in sets.items()}
        found += _coarse_groups(rows, real, answered) + _disagreements(sets, answered)
    else:
        found += _ends(measure, sets, seed)
    return Section(heading(measure), found, tables(rows))


def _boxes(measure: Measure, sets: Mapping[str, Measured]) -> list[Picture]:
    values = {name: part.values[measure.name] for name, part in sets.items()}
    values = {name: series for name, series in values.items() if series.notna().any()}
    if REAL not in values:
        return []
    return [
        Picture.of(
            quantile_boxes(values, xlabel=heading(measure)),
            f"Box plots of {measure.name}. {boxes_in_words(values)}.",
            "Boxes from 25 to 75 %, whiskers at 5 and 95 %; dotted: the real whiskers.",
        )
    ]


def _ends(measure: Measure, sets: Mapping[str, Measured], seed: int) -> list[Picture]:
    rows = {}
    for name, part in sets.items():
        found = extremes(part, measure.name, ENDS, seed)
        words = found["value"].map("{:.3g}".format)
        rows[name] = list(zip(pictures(part, found["row"]), words, strict=True))
    if not any(rows.values()):
        return []
    shown = "; ".join(f"{name}: {', '.join(words for _, words in row)}" for name, row in rows.items())
    return [
        Picture.of(
            worst_cases(rows),
            f"Images with the lowest and the highest {measure.name} of each set. {shown}.",
            f"The lowest and the highest {measure.name} of each set, the value below each image.",
        )
    ]


def _disagreements(sets: Mapping[str, Measured], answered: Mapping[str, Predictions]) -> list[Picture]:
    rows = {}
    for name, part in sets.items():
        wrong = disagreements(answered[name], 2 * ENDS)
        words = wrong["label"] + "\nseen: " + wrong["judged"] + wrong["confidence"].map("\n{:.2f}".format)
        rows[name] = list(zip(pictures(part, wrong["row"]), words, strict=True))
    if not any(rows.values()):
        return []
    shown = "; ".join(
        f"{name}: {', '.join(' '.join(words.split()) for _, words in row)}" for name, row in rows.items()
    )
    return [
        Picture.of(
            worst_cases(rows),
            f"Images that the judge takes for another class than their label. {shown}.",
            "Where the judge is surest of another class: the label, the class seen, and its confidence.",
        )
    ]


def _coarse_groups(rows: pd.DataFrame, real: Measured, answered: Mapping[str, Predictions]) -> list[Picture]:
    """For each synthetic set the groups' consistency and confusion, then a pair of heat maps per group."""
    if real.world.hierarchy is None:
        return []
    confusions = {name: group_confusions(part, real.world.hierarchy) for name, part in answered.items()}
    found = []
    for name in [name for name in answered if name != REAL]:
        own = rows[(rows["synthetic"] == name) & rows["group"].isin(list(confusions[REAL]))]
        fall = own[own["statistic"] == "unrestricted_consistency_difference"].sort_values("value")
        worst = fall["group"].head(GROUPS).to_list()
        found += [_forest(own[own["group"].isin(worst)], name)] if worst else []
        found += [
            _confusion({REAL: confusions[REAL][group], name: confusions[name][group]}, group)
            for group in worst
        ]
    return found


def _forest(rows: pd.DataFrame, name: str) -> Picture:
    parts = [
        rows[rows["statistic"] == f"{metric}_{side}"].assign(
            panel=panel, set=shown, n=lambda t, side=side: t[f"n_{side}"]
        )
        for metric, panel in PANELS.items()
        for side, shown in zip(SIDES, (REAL, name), strict=True)
    ]
    frame = pd.concat(parts)
    palette = {REAL: PALETTE["real"], name: PALETTE["synthetic"]}
    words = "; ".join(
        f"{row.group}, {' '.join(row.panel.split())}, {row.set}: {row.value:.2f}"
        for row in frame.itertuples()
    )
    return Picture.of(
        forest(
            frame, group="group", hue="set", panel="panel", xlabel="share of images", palette=palette,
            reference=None,
        ),
        f"Shares by coarse group with 95 % intervals. {words}.",
        f"The coarse groups of {name} that lose most, 95 % intervals; the judge answers among the classes "
        "of the sets.",
    )  # fmt: skip


def _confusion(counts: Mapping[str, pd.DataFrame], group: str) -> Picture:
    return Picture.of(
        confusion_maps(counts, title=group),
        f"Heat maps of {group}. {confusions_in_words(counts)}.",
        f"Who is taken for whom among {group}: shares of the images of each label.",
    )
