from unittest import mock

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from synreal.errors import InputError
from synreal.evaluate import resampling

COUNTS = st.integers(10, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@given(COUNTS)
def test_wilson_lies_in_the_unit_interval_and_holds_the_estimate(counts):
    hits, n = counts
    low, high = resampling.wilson_interval(hits, n)
    assert 0 <= low <= hits / n <= high <= 1
    assert low < high


def test_wilson_golden_value():
    # Newcombe 1998, Table I, method 3: 81 of 263.
    assert resampling.wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)


@pytest.mark.parametrize(("hits", "n", "message"), [(3, 9, "found 9 images"), (11, 10, "hits = 11")])
def test_wilson_refuses_too_few_images_and_impossible_counts(hits, n, message):
    with pytest.raises(InputError, match=message):
        resampling.wilson_interval(hits, n)


def test_wilson_bounds_of_too_few_images_are_nan():
    assert np.isnan(resampling.wilson_bounds(2, 9)).all()
    assert resampling.wilson_bounds(2, 10) == resampling.wilson_interval(2, 10)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(1, 200))
def test_resampling_depends_on_the_seed_alone(seed, rows, chunk):
    columns = np.random.default_rng(0).random((rows, 2)) < 0.5
    whole = resampling.resampled_sums(columns, 30, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resampling, "CHUNK_WEIGHTS", chunk)  # the memory bound must not change a draw
        chunked = resampling.resampled_sums(columns, 30, seed)
    assert np.array_equal(whole, chunked)
    assert (resampling.resampled_sums(np.ones((rows, 1)), 5, seed) == rows).all()


def test_seeds_give_different_draws():
    columns = np.arange(100.0)[:, None]
    assert not np.array_equal(
        resampling.resampled_sums(columns, 5, 1), resampling.resampled_sums(columns, 5, 2)
    )


def test_bootstrap_agrees_with_the_normal_approximation_of_a_proportion():
    columns = np.zeros((1000, 2))
    columns[:, 1] = 1
    columns[:300, 0] = 1
    low, high = resampling.bootstrap_interval(
        columns, lambda sums: sums[:, 0] / sums[:, 1], draws=4000, seed=1
    )
    half = 1.96 * np.sqrt(0.3 * 0.7 / 1000)
    assert (low, high) == pytest.approx((0.3 - half, 0.3 + half), abs=0.003)


def test_bootstrap_refuses_too_few_images_and_no_draws():
    with pytest.raises(InputError, match="found 9 images, expected at least 10"):
        resampling.bootstrap_interval(np.ones((9, 1)), lambda sums: sums[:, 0])
    with pytest.raises(InputError, match="found 0 draws"):
        resampling.resampled_sums(np.ones((20, 1)), 0, 0)


def test_no_interval_from_draws_that_never_vary_or_are_undefined():
    assert "all bootstrap draws are equal" in resampling.no_interval(np.full(5, 0.3))
    assert "divides by 0" in resampling.no_interval(np.full(5, np.nan))
    assert np.isnan(resampling.percentile_interval(np.full(5, 0.3))).all()
    assert resampling.no_interval(np.array([0.1, np.nan, 0.2])) == ""
    assert resampling.percentile_interval(np.array([0.0, np.nan, 1.0])) == pytest.approx((0.025, 0.975))


def test_bootstrap_p_value():
    assert resampling.bootstrap_p(np.arange(1, 100)) == pytest.approx(2 / 100)
    assert resampling.bootstrap_p(-np.arange(1, 100)) == pytest.approx(2 / 100)
    assert resampling.bootstrap_p(np.array([-1.0, 1.0])) == 1
    assert resampling.bootstrap_p(np.zeros(50)) == 1
    assert np.isnan(resampling.bootstrap_p(np.full(3, np.nan)))
    assert np.isnan(resampling.bootstrap_p(np.full(50, 0.3)))  # draws that never vary bound nothing


def test_mcnemar_is_the_exact_binomial_test():
    assert resampling.mcnemar_p(6, 0) == pytest.approx(2 * 0.5**6)
    assert resampling.mcnemar_p(0, 6) == resampling.mcnemar_p(6, 0)
    assert resampling.mcnemar_p(0, 0) == 1
    # Binomial(10, 0.5): P(X <= 2) = 56 / 1024.
    assert resampling.mcnemar_p(8, 2) == pytest.approx(2 * 56 / 1024)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_holm_agrees_with_statsmodels(p):
    with mock.patch("gc.collect"):  # which statsmodels calls each time; it takes a quarter of a second
        expected = multipletests(p, method="holm")[1]
    assert resampling.holm(p) == pytest.approx(expected)


def test_holm_by_hand_with_an_untested_group():
    adjusted = resampling.holm([0.01, np.nan, 0.04, 0.03])
    assert adjusted[[0, 2, 3]] == pytest.approx([0.03, 0.06, 0.06])
    assert np.isnan(adjusted[1])
    assert np.isnan(resampling.holm([np.nan])).all()


def test_minimum_detectable_effect_by_hand():
    # (1.959964 + 0.841621) * sqrt(0.2 / 1000)
    assert resampling.minimum_detectable_effect(1000, 0.2) == pytest.approx(0.039620, abs=1e-6)
    # Two models that agree on 44 images: 2.801585**2 / 44.
    assert resampling.minimum_detectable_effect(44, 0.0) == pytest.approx(0.178384, abs=1e-6)
    assert resampling.minimum_detectable_effect(2, 0.5) == 1


def test_minimum_detectable_effect_is_found_with_the_stated_power():
    n, rate = 2000, 0.1
    effect = resampling.minimum_detectable_effect(n, rate)
    rng = np.random.default_rng(0)
    only_a = rng.binomial(n, (rate + effect) / 2, 400)
    only_b = rng.binomial(n - only_a, ((rate - effect) / 2) / (1 - (rate + effect) / 2))
    found = np.mean([resampling.mcnemar_p(a, b) < 0.05 for a, b in zip(only_a, only_b, strict=True)])
    assert 0.72 < found < 0.88


@pytest.mark.parametrize(("n", "rate"), [(0, 0.1), (10, 1.5), (10, -0.1)])
def test_minimum_detectable_effect_refuses_impossible_values(n, rate):
    with pytest.raises(InputError, match="minimum_detectable_effect"):
        resampling.minimum_detectable_effect(n, rate)


def clustered(clusters=400, size=5, seed=0):
    """Outcomes that agree within a cluster, and the clusters' codes: the hardest case."""
    rng = np.random.default_rng(seed)
    outcome = np.repeat(rng.random(clusters) < 0.3, size).astype(np.float32)
    return np.column_stack([outcome, np.ones_like(outcome)]), np.repeat(np.arange(clusters), size)


def test_clusters_are_drawn_whole():
    columns, codes = clustered()
    order = np.random.default_rng(1).permutation(len(codes))
    sums = resampling.resampled_sums(columns[order], 200, 0, codes[order])
    assert (sums % 5 == 0).all()  # five equal images each time
    assert (sums[:, 1] == len(codes)).all()
    assert np.array_equal(sums, resampling.resampled_sums(columns, 200, 0, codes))


def test_clusters_widen_the_interval_as_theory_says():
    columns, codes = clustered()
    spread = [
        (lambda s: s[:, 0] / s[:, 1])(resampling.resampled_sums(columns, 4000, 0, given)).std()
        for given in (None, codes)
    ]
    assert spread[1] / spread[0] == pytest.approx(5**0.5, rel=0.05)
    assert resampling.design_effect(*columns.T, codes) == pytest.approx(5, rel=0.01)
    p, n = columns[:, 0].mean(), len(codes)
    wide = resampling.wilson_interval(round(p * n), n, design_effect=5)
    assert wide == pytest.approx(resampling.wilson_interval(round(p * n / 5), n // 5), abs=0.01)


@given(st.integers(0, 2**32 - 1))
def test_independent_images_have_a_design_effect_near_one(seed):
    rng = np.random.default_rng(seed)
    hits, codes = (rng.random(3000) < 0.5).astype(float), np.arange(3000) // 3
    assert 1 <= resampling.design_effect(hits, np.ones(3000), codes) < 1.25


def test_the_design_effect_of_outcomes_that_never_vary_is_that_of_clusters_wholly_alike():
    codes, images = np.arange(3000) // 3, np.ones(3000)
    assert resampling.design_effect(np.zeros(3000), images, codes) == 3
    assert resampling.design_effect(np.ones(3000), images, np.arange(3000)) == 1


def test_clusters_without_an_image_of_the_group_do_not_narrow_its_interval():
    images = (np.arange(3000) < 30).astype(float)  # ten of a thousand clusters
    hits = images * (np.arange(3000) < 15)
    few = resampling.design_effect(hits[:30], images[:30], np.arange(30) // 3)
    assert resampling.design_effect(hits, images, np.arange(3000) // 3) == pytest.approx(few)


def test_cluster_names_become_codes_and_missing_or_few_ones_are_refused():
    ids = pd.Index([f"i{i}" for i in range(30)])
    names = pd.Series([f"photo {i // 2}" for i in range(30)], index=ids)
    codes = resampling.cluster_codes(names.sample(frac=1, random_state=0), ids)
    assert codes.tolist() == [i // 2 for i in range(30)]
    assert resampling.cluster_codes(None, ids) is None
    with pytest.raises(InputError, match="clusters: 3 images have none, first"):
        resampling.cluster_codes(names.iloc[3:], ids)
    with pytest.raises(InputError, match="found 9, expected at least 10"):
        resampling.cluster_codes(names.iloc[:18], ids[:18])
