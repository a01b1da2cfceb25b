"""Laws of accuracy against data size, and what a synthetic image is worth."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synreal.errors import InputError
from synreal.evaluate.repeated import Repeats
from synreal.evaluate.scaling_laws import (
    BOUNDS,
    NEVER,
    NOTHING_MORE,
    NUMBERS,
    exchange_rates,
    fit_curve,
    slice_accuracies,
)
from synreal.evaluate.slices import enriched_test
from synreal.train.interventions import Mix

A, A_MINUS_B = np.array([0.5, 0.5, 0, 0]), np.array([0.5, 0.5, -0.5, -0.5])  # of four trainings
SIZES = np.repeat([250.0, 500.0, 1000.0, 2000.0, 4000.0], 3)


def curve(floor, height, rate, noise=0.002, seed=0):
    return curves((floor, height, rate), (floor, height, rate), noise, seed)[0]


def curves(real, synthetic, noise=0.002, seed=0):
    """Both sources' curves, of trainings that err by these laws and by chance."""
    accuracies = [1 - floor - height * (SIZES / 250) ** -rate for floor, height, rate in (real, synthetic)]
    accuracies = np.concatenate(accuracies)
    accuracies += noise * np.random.default_rng(seed).standard_normal(len(accuracies))
    source = np.repeat([0, 1], len(SIZES))
    repeats = Repeats.of(accuracies, list(zip(source, np.tile(SIZES, 2), strict=True)))
    return [fit_curve(np.where(source == one, np.tile(SIZES, 2), np.nan), repeats) for one in (0, 1)]


@settings(max_examples=15, deadline=None)
@given(st.floats(0.05, 0.4), st.floats(0.1, 0.4), st.floats(0.3, 1.5))
def test_a_law_is_found_again_from_what_it_makes(floor, height, rate):
    found = curve(floor, height, rate, noise=0.0)
    assert found.miss < 1e-4
    sizes = np.array([300.0, 3000.0])
    assert np.allclose(found.accuracy(sizes), 1 - floor - height * (sizes / 250) ** -rate, atol=1e-4)
    assert [found.size_for(one) for one in found.accuracy(sizes)] == pytest.approx(sizes, rel=0.01)


def test_a_synthetic_image_is_worth_half_a_real_one():
    """Twice the images for the same accuracy: floor and rate alike, height higher by 2 ** rate."""
    rates = exchange_rates(*curves((0.2, 0.3, 0.6), (0.2, 0.3 * 2**0.6, 0.6)), [250, 1000])
    assert np.allclose(rates["worth"], 0.5, atol=0.05)
    assert ((rates["worth_low"] < 0.5) & (rates["worth_high"] > 0.5)).all()
    assert rates["verdict"].str.match(r"(1\.9|2\.\d) each \(").all()


def test_beyond_its_floor_no_number_of_synthetic_images_will_do():
    rates = exchange_rates(*curves((0.2, 0.3, 1.0), (0.4, 0.2, 1.2)), [250, 2000]).set_index("real_images")
    assert np.isfinite(rates.loc[250, "synthetic_images"])
    assert rates.loc[2000, "verdict"] == NEVER and rates.loc[2000, "worth"] == 0
    assert rates.loc[2000, "worth_high"] == 0 and np.isinf(rates.loc[2000, "ci_low"])


def test_fewer_images_than_measured_are_said_to_be_at_most():
    rates = exchange_rates(*curves((0.2, 0.4, 0.6), (0.2, 0.35, 0.6)), [250, 1000]).set_index("real_images")
    assert rates.loc[250, "synthetic_images"] < 250
    assert rates.loc[250, "verdict"].startswith("at most 1.0 each (by the law 0.8, ")
    assert rates.loc[1000, "verdict"].startswith("0.8 each (")


def test_a_curve_that_does_not_rise_names_no_number():
    row = exchange_rates(*curves((0.2, 0.3, 0.6), (0.4, 0.0, 0.6), 0.0), [250]).iloc[0]
    assert row["verdict"] == NOTHING_MORE
    assert row[list(NUMBERS)].isna().all()


def test_trainings_that_agree_give_no_interval():
    row = exchange_rates(*curves((0.2, 0.3, 0.6), (0.2, 0.4, 0.6), 0.0), [1000]).iloc[0]
    assert row["worth"] == pytest.approx((3 / 4) ** (1 / 0.6), rel=0.01)
    assert row[list(BOUNDS)].isna().all()
    assert row["verdict"] == "1.6 each (no interval: nothing varies)"


def test_bands_hold_the_law_and_narrow_with_less_noise():
    wide, narrow = curve(0.2, 0.3, 0.6, 0.02), curve(0.2, 0.3, 0.6, 0.002)
    sizes = np.array([400.0, 1500.0])
    low, high = wide.band(sizes)
    assert (low < wide.accuracy(sizes)).all() and (wide.accuracy(sizes) < high).all()
    assert ((high - low) > np.ptp(narrow.band(sizes), axis=0)).all()


def test_what_varies_is_counted():
    repeats = Repeats.of(np.array([0.4, 0.6, 0.5, 0.5]), list("aabb"))
    low, high, _ = repeats.interval(np.array([0.5]), repeats.moved() @ A[:, None])
    assert high[0] - low[0] == pytest.approx(2 * 12.706 * 0.1, rel=1e-3)  # one degree of freedom
    with pytest.raises(InputError, match="seeds: found 1 training of b"):
        Repeats.of(np.full(3, 0.5), list("aab"))
    with pytest.raises(InputError, match=r"sizes: found \[250.0, 500.0\], expected 4"):
        fit_curve(SIZES[:6], Repeats.of(np.full(6, 0.5), SIZES[:6]))


def test_test_photographs_vary_too():
    """Four trainings that agree on every image: what is left is the luck of the photographs."""
    hits = np.arange(200) % 2
    moved = np.tile((hits - 0.5) / 200, (4, 1))
    repeats = Repeats.of(np.full(4, 0.5), list("aabb"), influence=moved)
    of_a, difference = (repeats.moved() @ weights[:, None] for weights in (A, A_MINUS_B))
    low, high, _ = repeats.interval(np.array([0.5]), of_a)
    assert (high - low)[0] == pytest.approx(2 * 1.972 * (0.25 / 199) ** 0.5, rel=1e-3)
    assert np.isnan(repeats.interval(np.zeros(1), difference)[0]).all()  # the same photographs for both


def test_the_accuracies_of_a_slice_make_both_curves():
    """Real images alone, synthetic ones alone, and mixes, which belong to neither curve."""
    test = enriched_test(60, 12, split="val")
    sizes = [Mix(n, 0) for n in (10, 20, 40, 80)] + [Mix(0, n) for n in (10, 20, 40, 80)] + [Mix(10, 20)]
    rng = np.random.default_rng(0)
    logits = rng.random((len(sizes), 3, len(test.labels), 10))
    found = slice_accuracies(sizes, logits, test, "accuracy")
    assert found.n == 60 and len(found.repeats.group) == len(sizes) * 3
    hits = logits[0, 1].argmax(-1) == test.labels
    assert found.table.loc[1, "accuracy"] == hits[test.natural].mean()
    alone = found.table[found.table["n_real"] == 0]
    assert found.curve("synthetic").largest == 80 and len(alone) == 12
    own = fit_curve(alone["n_syn"].to_numpy(float), Repeats.of(alone["accuracy"].to_numpy(), alone["n_syn"]))
    assert np.array_equal(found.curve("synthetic").law, own.law)
