"""Figures: palette, intervals, n in the labels, contact sheets."""

import matplotlib.colors
import numpy as np
import pandas as pd
import pytest

from synreal.book.plots import PALETTE, colours, curves, distributions, forest, image_sheet, use_style


@pytest.fixture(autouse=True)
def style() -> None:
    use_style()


def luminance(colour: str) -> float:
    channels = np.array(matplotlib.colors.to_rgb(colour))
    linear = np.where(channels <= 0.03928, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def frame() -> pd.DataFrame:
    rows = [("pose", "real", 0.1, 40), ("pose", "synthetic", -0.1, 40), ("darker", "real", 0.0, 44)]
    table = pd.DataFrame(rows, columns=["factor", "source", "value", "n"])
    return table.assign(ci_low=table["value"] - 0.05, ci_high=table["value"] + 0.02)


def test_every_colour_stands_out_on_the_card() -> None:
    assert min(1.05 / (luminance(colour) + 0.05) for colour in PALETTE.values()) >= 3  # WCAG for graphics


def test_sources_keep_their_colour_and_strangers_get_free_ones() -> None:
    chosen = colours(["a", "synthetic", "b"])
    assert chosen["synthetic"] == PALETTE["synthetic"]
    assert len(set(chosen.values())) == 3


def test_too_many_groups_are_refused() -> None:
    with pytest.raises(ValueError, match="split the figure"):
        colours([f"group {n}" for n in range(20)])


def test_forest_draws_each_interval_and_says_n() -> None:
    axes = forest(frame(), group="factor", hue="source").axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["pose  (n = 40)", "darker  (n = 44)"]
    ends = [segment[:, 0] for bars in axes.containers for segment in bars[2][0].get_segments()]
    assert np.allclose(ends, [[0.05, 0.12], [-0.05, 0.02], [-0.15, -0.08]])


def test_forest_keeps_the_colour_of_a_source() -> None:
    axes = forest(frame(), group="factor", hue="source").axes[0]
    assert [bars[0].get_color() for bars in axes.containers] == [PALETTE["real"], PALETTE["synthetic"]]


def test_forest_draws_no_bar_without_an_interval() -> None:
    axes = forest(frame().assign(ci_low=np.nan, ci_high=np.nan), group="factor", hue="source").axes[0]
    lengths = [np.ptp(segment[:, 0]) for bars in axes.containers for segment in bars[2][0].get_segments()]
    assert lengths == [0, 0, 0]


def test_panels_of_the_same_lines_share_them_in_one_order() -> None:
    rows = pd.concat([frame().assign(kind="ViT"), frame()[::-1].assign(kind="CLIP")])
    first, second = forest(rows, group="factor", hue="source", panel="kind").axes
    assert first.get_subplotspec().rowspan == second.get_subplotspec().rowspan
    labels = [label.get_text().split("  ")[0] for label in first.get_yticklabels()]
    assert labels == list(frame()["factor"].unique())


def test_a_figure_says_what_it_shows_for_those_who_cannot_see_it() -> None:
    missing = frame().assign(factor="person_blocking", value=np.nan)
    label = forest(pd.concat([frame(), missing[:1]]), group="factor", hue="source").get_label()
    assert label == (
        "3 dots with error bars. The lowest is pose, synthetic at -0.100, the highest pose, real at 0.100; "
        "1 intervals lie above 0 and 1 below."
    )
    assert "intervals" not in forest(frame(), group="factor", hue="source", reference=None).get_label()


def test_curves_say_where_they_end() -> None:
    lines = [frame()[:1].assign(images=n, value=n / 100) for n in (30, 10)]
    label = curves(pd.concat(lines), x="images", hue="source").get_label()
    assert label == "Lines over images that end: real at 0.300."


def test_panels_of_different_lines_have_their_own() -> None:
    rows = frame().assign(kind=frame()["factor"])
    panels = forest(rows, group="factor", hue="source", panel="kind").axes
    assert [len(panel.get_yticks()) for panel in panels] == [1] * frame()["factor"].nunique()


def test_forest_refuses_to_hide_a_row() -> None:
    with pytest.raises(ValueError, match="occurs twice"):
        forest(frame(), group="factor")


def test_a_missing_column_is_named() -> None:
    with pytest.raises(ValueError, match="ci_low"):
        forest(frame().drop(columns="ci_low"), group="factor", hue="source")


def test_distributions_are_shares_with_n() -> None:
    table = pd.DataFrame({"scale": [0.1, 0.2, 0.9, 0.95], "source": ["real", "real", "real", "synthetic"]})
    axes = distributions(table, x="scale", hue="source", bins=2).axes[0]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "real (n = 3)",
        "synthetic (n = 1)",
    ]
    assert np.allclose(axes.patches[0].get_data().values, [2 / 3, 1 / 3])
    assert "real: median 0.2, from 0.11 to 0.83" in axes.figure.get_label()


def test_a_contact_sheet_shows_pixels_as_they_are() -> None:
    images = np.random.default_rng(0).integers(0, 255, (3, 32, 32, 3), dtype=np.uint8)
    axes = image_sheet(images, ["a", "b", "c"], columns=2).axes
    assert [a.get_title() for a in axes] == ["a", "b", "c", ""]
    assert axes[0].images[0].get_interpolation() == "nearest"
    assert np.array_equal(axes[2].images[0].get_array(), images[2])


@pytest.mark.parametrize(("images", "titles"), [([], None), ([np.zeros((2, 2, 3))], ["a", "b"])])
def test_a_contact_sheet_needs_images_and_as_many_titles(images: list, titles: list) -> None:
    with pytest.raises(ValueError, match="one title each"):
        image_sheet(images, titles)


def test_curves_say_where_lines_end_and_show_the_measurements_behind_a_law() -> None:
    """Five panels in rows of three; the ticks of a logarithmic axis are what was measured."""
    sizes, panels = [250, 1000, 4000], ["a", "b", "c", "d", "e"]
    line = pd.DataFrame({"size": sizes, "value": [0.3, 0.4, 0.5], "ci_low": 0.2, "ci_high": 0.6})
    table = pd.concat([line.assign(source="real", panel=panel) for panel in panels])
    few = {"x": "size", "hue": "source", "panel": "panel", "log": True}
    figure = curves(table, points=table[table["size"] < 4000], palette={"real": "#000000"}, **few)
    shown = [axes for axes in figure.axes if axes.axison]
    assert len(shown) == 5 and len(figure.axes) == 6
    law, dots = shown[4].lines
    assert len(law.get_xdata()) == 3 and dots.get_linestyle() == "None" and len(dots.get_xdata()) == 2
    assert [text.get_text() for text in shown[0].get_xticklabels()] == ["250", "1,000"]
    assert "e, real at 0.500" in figure.get_label()
    assert len(curves(table, **few).axes[0].lines) == 1
