"""Laws of accuracy against data size, and what a synthetic image is worth."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synreal.errors import InputError
from synreal.evaluate.scaling_laws import (
    BOUNDS,
    NEVER,
    NOTHING_MORE,
    NUMBERS,
    accuracy_draws,
    exchange_rates,
    fit_curve,
    resample_repeats,
    slice_accuracies,
)
from synreal.evaluate.slices import enriched_test
from synreal.train.interventions import Mix

SIZES = np.repeat([250.0, 500.0, 1000.0, 2000.0, 4000.0], 3)


def curve(floor, height, rate, noise=0.002, draws=60, seed=0):
    rng = np.random.default_rng(seed)
    accuracies = 1 - floor - height * (SIZES / 250) ** -rate + noise * rng.standard_normal(len(SIZES))
    drawn = resample_repeats(np.tile(accuracies, (draws, 1)), SIZES, seed)
    return fit_curve(SIZES, accuracies, drawn)


@settings(max_examples=15, deadline=None)
@given(st.floats(0.05, 0.4), st.floats(0.1, 0.4), st.floats(0.3, 1.5))
def test_a_law_is_found_again_from_what_it_makes(floor, height, rate):
    found = curve(floor, height, rate, noise=0.0, draws=1)
    assert found.miss < 1e-4
    sizes = np.array([300.0, 3000.0])
    assert np.allclose(found.accuracy(sizes), 1 - floor - height * (sizes / 250) ** -rate, atol=1e-4)
    assert np.allclose(found.size_for(found.accuracy(sizes), found.law[None]), sizes, rtol=0.01)


def test_a_synthetic_image_is_worth_half_a_real_one():
    """Twice the images for the same accuracy: floor and rate alike, height higher by 2 ** rate."""
    rates = exchange_rates(curve(0.2, 0.3, 0.6), curve(0.2, 0.3 * 2**0.6, 0.6, seed=1), [250, 1000])
    assert np.allclose(rates["worth"], 0.5, atol=0.05)
    assert ((rates["worth_low"] < 0.5) & (rates["worth_high"] > 0.5)).all()
    assert rates["verdict"].str.match(r"(1\.9|2\.\d) each \(").all()


def test_beyond_its_floor_no_number_of_synthetic_images_will_do():
    rates = exchange_rates(curve(0.2, 0.3, 1.0), curve(0.4, 0.2, 1.2, seed=1), [250, 2000]).set_index(
        "real_images"
    )
    assert np.isfinite(rates.loc[250, "synthetic_images"])
    assert rates.loc[2000, "verdict"] == NEVER and rates.loc[2000, "worth"] == 0
    assert rates.loc[2000, "unreachable"] == 1 and np.isinf(rates.loc[2000, "ci_low"])


def test_fewer_images_than_measured_are_said_to_be_at_most():
    rates = exchange_rates(curve(0.2, 0.4, 0.6), curve(0.2, 0.35, 0.6, seed=1), [250, 1000]).set_index(
        "real_images"
    )
    assert rates.loc[250, "synthetic_images"] < 250
    assert rates.loc[250, "verdict"].startswith("at most 1.0 each (by the law 0.8, ")
    assert rates.loc[1000, "verdict"].startswith("0.8 each (")


def test_a_curve_that_does_not_rise_names_no_number():
    flat = fit_curve(SIZES, np.full(len(SIZES), 0.6), np.full((60, len(SIZES)), 0.6))
    row = exchange_rates(curve(0.2, 0.3, 0.6), flat, [250]).iloc[0]
    assert row["verdict"] == NOTHING_MORE
    assert row[list(NUMBERS)].isna().all() and row["unreachable"] == 0


def test_draws_that_agree_give_no_interval():
    real, synthetic = curve(0.2, 0.3, 0.6, 0.0), curve(0.2, 0.4, 0.6, 0.0)
    row = exchange_rates(real, synthetic, [1000]).iloc[0]
    assert row["worth"] == pytest.approx((3 / 4) ** (1 / 0.6), rel=0.01)
    assert row[list(BOUNDS)].isna().all()
    assert row["verdict"] == "1.6 each (no interval: equal draws)"


def test_bands_hold_the_law_and_narrow_with_less_noise():
    wide, narrow = curve(0.2, 0.3, 0.6, 0.02), curve(0.2, 0.3, 0.6, 0.002)
    sizes = np.array([400.0, 1500.0])
    low, high = wide.band(sizes)
    assert (low < wide.accuracy(sizes)).all() and (wide.accuracy(sizes) < high).all()
    assert ((high - low) > np.ptp(narrow.band(sizes), axis=0)).all()


def test_repeats_are_resampled_without_bias_within_their_cells():
    values = np.array([0.50, 0.53, 0.47, 0.80, 0.80, 0.80])
    drawn = resample_repeats(np.tile(values, (20_000, 1)), ["a"] * 3 + ["b"] * 3)
    assert drawn[:, :3].mean() == pytest.approx(0.5, abs=1e-3)
    assert drawn[:, 0].var() == pytest.approx(values[:3].var(ddof=1), rel=0.05)
    assert np.allclose(drawn[:, 3:], 0.8)
    with pytest.raises(InputError, match="seeds: found 1 training of b"):
        resample_repeats(values[None, :4], ["a", "a", "a", "b"])


def test_draws_vary_test_photographs_too():
    hits = np.tile(
        (np.arange(200) % 2).astype(np.float32), (4, 1)
    )  # four trainings that agree on every image
    drawn = accuracy_draws(hits, ["a", "a", "b", "b"], None, 2000)
    assert drawn.shape == (2000, 4) and np.allclose(drawn[:, 0], drawn[:, 3])
    assert drawn[:, 0].std() == pytest.approx((0.25 / 200) ** 0.5, rel=0.1)
    pairs = accuracy_draws(hits, ["a", "a", "b", "b"], np.arange(200) // 2, 2000)
    assert pairs.std() < 1e-6  # every photograph holds one image of each kind
    with pytest.raises(InputError, match=r"sizes: found \[250.0, 500.0\], expected 4"):
        fit_curve(SIZES[:6], np.full(6, 0.5), np.full((2, 6), 0.5))


def test_the_accuracies_of_a_slice_make_both_curves():
    """Real images alone, synthetic ones alone, and mixes, which belong to neither curve."""
    test = enriched_test(60, 12, split="val")
    sizes = [Mix(n, 0) for n in (10, 20, 40, 80)] + [Mix(0, n) for n in (10, 20, 40, 80)] + [Mix(10, 20)]
    rng = np.random.default_rng(0)
    logits = rng.random((len(sizes), 3, len(test.labels), 10))
    found = slice_accuracies(sizes, logits, test, "accuracy", draws=20)
    assert found.n == 60 and found.draws.shape == (20, len(sizes) * 3)
    hits = logits[0, 1].argmax(-1) == test.labels
    assert found.table.loc[1, "accuracy"] == hits[test.natural].mean()
    alone = found.table[found.table["n_real"] == 0]
    assert found.curve("synthetic").largest == 80 and len(alone) == 12
    own = fit_curve(alone["n_syn"].to_numpy(float), alone["accuracy"].to_numpy(), found.draws[:, alone.index])
    assert np.array_equal(found.curve("synthetic").law, own.law)
