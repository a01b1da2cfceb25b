"""Measures beside the truth: by hand, by simulation, and on scenes."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from synreal.data.worlds import World, open_world
from synreal.errors import InputError
from synreal.generate.rerender import Defects
from synreal.synbench.compare import measure_all
from synreal.synbench.measures import Brightness
from synreal.synbench.validate import (
    agreement,
    knows_truth,
    rerendered_worlds,
    validate_on_scenes,
    yes_no_agreement,
)

IDS = pd.Index([f"i{i:03d}" for i in range(200)], name="id")


def series(values):
    return pd.Series(np.asarray(values, float), IDS[: len(values)])


def noisy(bias=0.3, noise=0.1, seed=0):
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=200)
    return series(truth + bias + noise * rng.normal(size=200)), series(truth)


def test_agreement_by_hand():
    measured, truth = noisy()
    measured.iloc[:20] = np.nan
    table = agreement(measured, truth, draws=500).set_index("statistic")
    error = (measured - truth).dropna()
    assert table["value"].to_dict() == pytest.approx(
        {
            "found": 0.9,
            "bias": error.mean(),
            "mean_absolute_error": error.abs().mean(),
            "correlation": measured.corr(truth),
        }
    )
    assert table["n"].tolist() == [200, 180, 180, 180]
    assert (table["ci_low"] < table["value"]).all() and (table["value"] < table["ci_high"]).all()
    assert table.loc["bias", "ci_low"] > 0.25 and table.loc["bias", "ci_high"] < 0.35


@given(st.floats(-1e3, 1e3), st.floats(0.1, 100))
def test_correlation_knows_no_unit(shift, factor):
    measured, truth = noisy()
    one, other = (
        agreement(m, t, draws=50).set_index("statistic").loc["correlation", "value"]
        for m, t in ((measured, truth), (factor * measured + shift, truth + shift))
    )
    assert one == pytest.approx(other, abs=1e-6)


def test_copies_of_an_image_tell_nothing_new():
    measured, truth = noisy()
    short = [part.iloc[:50] for part in (measured, truth)]
    copied = [series(np.tile(part, 4)) for part in short]
    shown = pd.Series(np.tile(np.arange(50), 4), IDS)
    width = [
        agreement(*pair, clusters=c).set_index("statistic").eval("ci_high - ci_low")["bias"]
        for pair, c in ((short, None), (copied, shown), (copied, None))
    ]
    assert width[1] == pytest.approx(width[0], rel=0.15) and width[2] < 0.6 * width[1]


def test_yes_or_no_by_hand():
    truth = series([1] * 40 + [0] * 160)
    measured = series([1] * 30 + [0] * 10 + [1] * 8 + [0] * 142 + [np.nan] * 10)
    table = yes_no_agreement(measured, truth).set_index("statistic")
    assert table["value"].to_dict() == pytest.approx(
        {"found": 0.95, "sensitivity": 0.75, "specificity": 142 / 150}
    )
    assert table["n"].to_dict() == {"found": 200, "sensitivity": 40, "specificity": 150}
    few = yes_no_agreement(measured[35:], truth[35:]).set_index("statistic")
    assert np.isnan(few.loc["sensitivity", ["value", "ci_low"]].astype(float)).all()


def test_what_cannot_be_compared_is_refused():
    measured, truth = noisy()
    with pytest.raises(InputError, match="truth: says nothing of 5 of 200 images"):
        agreement(measured, truth.iloc[5:])
    with pytest.raises(InputError, match="found 9 measured images, expected 10 or more"):
        agreement(measured.where(np.arange(200) < 9), truth)


def test_brightness_follows_the_exposure_of_scenes_and_its_dial():
    world = open_world("scenes/val", 300)
    measured = measure_all(world, [Brightness()])
    [row] = validate_on_scenes(measured, draws=200)["brightness"].to_dict("records")
    assert row["statistic"] == "correlation" and row["value"] > 0.5 and row["ci_low"] < row["value"]
    plain, cut = rerendered_worlds(world, [Defects(), Defects(brightness=1)], 120)
    assert plain.name == "none" and cut.name == "brightness 1" and plain.clusters.equals(cut.clusters)
    spread = [measure_all(part, [Brightness()]).values["brightness"].std() for part in (plain, cut)]
    assert spread[1] < 0.8 * spread[0]


def test_other_images_have_no_truth():
    images = open_world("scenes/val", 20).images.select_columns(["image", "label", "id", "source"])
    world = World("mine", images, None, None)
    assert not knows_truth(world)
    assert validate_on_scenes(measure_all(world, [Brightness()])) == {}
