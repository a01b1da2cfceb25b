"""Distributions compared: statistics with known answers, intervals with known coverage, bad input."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp, wasserstein_distance

from synreal.errors import InputError
from synreal.evaluate import distribution
from synreal.evaluate.distribution import compare_classes, compare_distributions, compare_proportions
from synreal.evaluate.resampling import holm, wilson_interval

DISTANCES = ["wasserstein", "ks"]
QUANTILES = {"q05": 0.05, "q25": 0.25, "q50": 0.5, "q75": 0.75, "q95": 0.95}
SMALL = st.lists(st.integers(0, 20), min_size=1, max_size=9)  # with ties, and too few for a bootstrap


def images(values, prefix="real"):
    values = np.asarray(values)
    return pd.Series(values, index=[f"{prefix}-{i:05d}" for i in range(len(values))])


def normal(n, mean=50.0, spread=10.0, seed=0, prefix="real"):
    return images(np.random.default_rng(seed).normal(mean, spread, n), prefix)


def table(real, synthetic, **options):
    options = {"draws": 200} | options
    return compare_distributions(real, synthetic, **options).set_index("statistic")


@pytest.mark.filterwarnings("ignore:ks_2samp. Exact")  # of its p value, which is not used
@given(SMALL, SMALL)
def test_values_are_those_of_numpy_and_scipy(real, synthetic):
    found = table(images(real), images(synthetic, "syn"))["value"]
    for name, share in QUANTILES.items():
        wanted = np.quantile(real, share), np.quantile(synthetic, share)
        assert found[[f"{name}_real", f"{name}_synthetic"]].tolist() == pytest.approx(wanted)
        assert found[f"{name}_difference"] == pytest.approx(wanted[1] - wanted[0])
    assert found["mean_difference"] == pytest.approx(np.mean(synthetic) - np.mean(real))
    assert found["wasserstein"] == pytest.approx(wasserstein_distance(real, synthetic))
    assert found["ks"] == pytest.approx(ks_2samp(real, synthetic).statistic)
    low, high = np.quantile(real, [0.05, 0.95])
    for name, beyond in {"low": lambda x: x <= low, "high": lambda x: x >= high}.items():
        wanted = np.mean(beyond(np.array(synthetic))) / np.mean(beyond(np.array(real)))
        assert found[f"{name}_tail_coverage"] == pytest.approx(wanted)


def test_the_form_of_the_table():
    found = compare_distributions(normal(60), normal(40, seed=1, prefix="syn"), draws=50)
    assert found.columns.tolist() == [
        "statistic",
        "value",
        "n_real",
        "n_synthetic",
        "ci_low",
        "ci_high",
        "p",
        "note",
    ]
    assert found["statistic"].is_unique and len(found) == 26
    assert (
        (found["n_real"] == 60).all() and (found["n_synthetic"] == 40).all() and (found["note"] == "").all()
    )
    assert ((found["ci_low"] <= found["value"]) & (found["value"] <= found["ci_high"])).all()
    tested = found.set_index("statistic")["p"].dropna()
    ratios = ["iqr_ratio", "range_ratio"]
    assert tested.index.tolist() == [f"{q}_difference" for q in ("mean", *QUANTILES)] + ratios + DISTANCES
    assert tested.between(0, 1).all()


def test_identical_sets_do_not_differ():
    found = table(normal(300), normal(300, prefix="syn"))
    differences = found["value"].filter(like="_difference")
    assert (differences == 0).all() and (found.loc[DISTANCES, "value"] == 0).all()
    assert (found.loc[DISTANCES, "p"] == 1).all() and (found.loc[DISTANCES, "ci_low"] == 0).all()
    assert (found["value"].filter(regex="ratio|coverage") == 1).all()
    assert (found["p"].dropna() > 0.5).all()


def test_a_narrower_set_has_the_ratio_of_its_ranges():
    real = normal(400)
    found = table(real, images(50 + 0.5 * (real.to_numpy() - 50), "syn"))
    for name in ("iqr_ratio", "range_ratio"):
        row = found.loc[name]
        assert row["value"] == pytest.approx(0.5) and row["ci_low"] < 0.5 < row["ci_high"] < 0.8
        assert row["p"] < 0.01
    assert found.loc["low_tail_coverage", "ci_high"] < 0.5 > found.loc["high_tail_coverage", "ci_high"]


@settings(deadline=None, max_examples=10)
@given(st.floats(-30, 30), st.floats(0.5, 20))
def test_shift_and_unit_act_as_they_should(shift, unit):
    real = normal(50)
    moved = table(real, images(real + shift, "syn"), draws=20)
    assert moved.loc[["mean_difference", "q50_difference"], "value"].tolist() == pytest.approx([shift] * 2)
    assert moved.loc["wasserstein", "value"] == pytest.approx(abs(shift))
    other = normal(40, 55, 6, seed=1, prefix="syn")
    plain, scaled = table(real, other, draws=20), table(real * unit, other * unit, draws=20)
    in_units = ~plain.index.str.contains("ratio|coverage|ks")
    factor = np.where(in_units, unit, 1.0)
    for column in ("value", "ci_low", "ci_high"):
        assert scaled[column].to_numpy() == pytest.approx(plain[column] * factor, rel=1e-6, abs=1e-9)


def test_the_order_of_images_and_the_size_of_chunks_change_nothing(monkeypatch):
    real, other = normal(50), normal(40, seed=1, prefix="syn")
    clusters = images(np.arange(50) // 2).map("photo-{}".format)
    first = compare_distributions(real, other, clusters, draws=40)
    mixed = compare_distributions(
        real.sample(frac=1, random_state=0),
        other.sample(frac=1, random_state=1),
        clusters.sample(frac=1, random_state=2),
        draws=40,
    )
    pd.testing.assert_frame_equal(first, mixed)
    monkeypatch.setattr(distribution, "CHUNK_COUNTS", 300)  # three draws at once
    pd.testing.assert_frame_equal(first, compare_distributions(real, other, clusters, draws=40))
    assert not first.equals(compare_distributions(real, other, clusters, draws=40, seed=1))


def test_intervals_are_those_of_the_normal_approximation():
    found = table(normal(900), normal(400, 52, 5, seed=1, prefix="syn"), draws=1000).loc["mean_difference"]
    half = 1.96 * np.sqrt(100 / 900 + 25 / 400)
    assert found["ci_high"] - found["ci_low"] == pytest.approx(2 * half, rel=0.1)


@pytest.fixture(scope="module")
def simulated():
    """Tables of 150 pairs of sets, equal in truth, and narrower in truth."""

    def tables(spread, n=60):
        pairs = (
            (normal(n, seed=[0, s]), normal(n, 50, spread, seed=[1, s], prefix="syn")) for s in range(150)
        )
        return [table(*pair, draws=120) for pair in pairs]

    return {"equal": tables(10), "narrower": tables(6)}


def covered(tables, statistic, truth):
    rows = pd.DataFrame([found.loc[statistic] for found in tables])
    return ((rows["ci_low"] <= truth) & (truth <= rows["ci_high"])).mean()


# Truths of normal distributions with standard deviations 10 and 6. With 150 pairs, three standard errors
# below 95 % are 0.897; the tails are known to be somewhat short at 60 images.
@pytest.mark.parametrize(
    ("statistic", "truth", "least"),
    [
        ("mean_difference", 0, 0.89),
        ("q05_difference", 1.645 * 4, 0.86),
        ("q50_difference", 0, 0.89),
        ("iqr_ratio", 0.6, 0.89),
        ("range_ratio", 0.6, 0.89),
        ("low_tail_coverage", 0.00306 / 0.05, 0.89),
        ("wasserstein", 4 * np.sqrt(2 / np.pi), 0.89),
        ("ks", 0.12168, 0.89),
    ],
)
def test_intervals_cover_the_truth(simulated, statistic, truth, least):
    assert covered(simulated["narrower"], statistic, truth) >= least


@pytest.mark.parametrize("statistic", DISTANCES)
def test_distances_of_equal_distributions_are_judged_by_their_null(simulated, statistic):
    tables = simulated["equal"]
    rows = pd.DataFrame([found.loc[statistic] for found in tables])
    null = np.mean([found.loc[f"{statistic}_null", "value"] for found in tables])
    assert rows["value"].min() > 0 and rows["value"].mean() == pytest.approx(null, rel=0.15)
    assert covered(tables, statistic, 0) >= 0.89
    assert (rows["p"] < 0.05).mean() <= 0.11  # 0.05 and three standard errors
    assert ((rows["ci_low"] > 0) == (rows["p"] < 0.05)).mean() > 0.97


def test_images_of_one_photograph_count_once():
    real, other = normal(100), normal(80, seed=1, prefix="syn")
    copies = images(np.repeat(real.to_numpy(), 6))
    clusters = images(np.repeat([f"photo-{i}" for i in range(100)], 6))
    once, blind = table(real, other, draws=800), table(copies, other, draws=800)
    aware = table(copies, other, real_clusters=clusters, draws=800)

    def width(found):
        return (found["ci_high"] - found["ci_low"])[["mean_real", "q50_real", "wasserstein", "ks_null"]]

    assert width(aware).to_numpy() == pytest.approx(width(once).to_numpy(), rel=0.12)
    assert (width(blind) < 0.9 * width(aware)).all()
    assert (aware["n_real"] == 600).all()


def test_clusters_of_the_synthetic_set_count_too():
    copies = images(np.repeat(normal(50, seed=1).to_numpy(), 8), "syn")
    clusters = images(np.arange(400) // 8, "syn")
    blind, aware = table(normal(400), copies), table(normal(400), copies, synthetic_clusters=clusters)
    assert aware.loc["ks", "p"] > blind.loc["ks", "p"]
    assert aware.loc["ks_null", "value"] > 1.5 * blind.loc["ks_null", "value"]


def test_images_without_a_value_are_left_out_and_counted():
    real = normal(50)
    gaps = pd.concat([real, images([np.nan] * 7, "undefined")])
    found = table(gaps, normal(30, seed=1, prefix="syn"))
    assert found["note"].str.endswith("7 of 57 real images have no value").all()
    assert (found["n_real"] == 50).all()
    plain = table(real, normal(30, seed=1, prefix="syn"))
    pd.testing.assert_frame_equal(found.drop(columns="note"), plain.drop(columns="note"))


@pytest.mark.parametrize("count", [0, 1, 9])
def test_too_few_images_give_values_without_bounds(count):
    found = table(normal(50), normal(count, prefix="syn"))
    assert found[["ci_low", "ci_high", "p"]].isna().all(axis=None)
    assert (found["note"] == f"too few images ({count} < 10)").all()
    assert np.isfinite(found.loc["mean_real", "value"])
    assert np.isfinite(found.loc["ks", "value"]) == (count > 0)


def test_two_sets_without_any_value_are_a_table_of_notes():
    nothing = images([np.nan] * 20)
    found = table(nothing, nothing)
    assert found["value"].isna().all() and len(found) == 26
    assert found["note"].str.contains("20 of 20 synthetic images have no value").all()


def test_values_that_never_vary_bound_nothing():
    found = table(images([5.0] * 20), images([6.0] * 30, "syn"))
    assert found.loc["mean_difference", "value"] == found.loc["wasserstein", "value"] == 1
    assert found.loc[["mean_difference", *DISTANCES], ["ci_low", "ci_high", "p"]].isna().all(axis=None)
    assert "all bootstrap draws are equal" in found.loc["ks", "note"]
    assert np.isnan(found.loc["iqr_ratio", "value"]) and "divides by 0" in found.loc["iqr_ratio", "note"]


def test_a_tail_without_synthetic_images_is_bounded():
    real = images(np.linspace(0, 100, 201))
    found = table(real, images(np.linspace(40, 60, 100), "syn"))
    share = np.mean(real <= np.quantile(real, 0.05))
    for name in ("low_tail_coverage", "high_tail_coverage"):
        row = found.loc[name]
        assert row["value"] == row["ci_low"] == 0 and "no synthetic image" in row["note"]
        assert row["ci_high"] == pytest.approx(wilson_interval(0, 100)[1] / share)


def by_class(n=40, prefix="real", seed=0, **shifts):
    values = [normal(n, 50 + shift, seed=[seed, i]).to_numpy() for i, shift in enumerate(shifts.values())]
    return images(np.concatenate(values), prefix), images(np.repeat(list(shifts), n), prefix)


def test_classes_are_compared_one_by_one():
    real, real_classes = by_class(hat=0, boot=0, bag=0)
    other, classes = by_class(prefix="syn", seed=1, hat=0, boot=12, bag=0)
    found = compare_classes(real, other, real_classes, classes.sample(frac=1, random_state=0), draws=300)
    assert found.columns[:2].tolist() == ["class", "statistic"] and found["class"].unique().tolist() == [
        "bag",
        "boot",
        "hat",
    ]
    for _, rows in found[found["statistic"].isin(DISTANCES)].groupby("statistic"):
        assert rows["p_holm"].to_numpy() == pytest.approx(holm(rows["p"].to_numpy()))
    ks = found[found["statistic"] == "ks"].set_index("class")
    assert (ks["p_holm"] < 0.05).to_dict() == {"bag": False, "boot": True, "hat": False}
    alone = compare_distributions(real[real_classes == "boot"], other[classes == "boot"], draws=300)
    pd.testing.assert_series_equal(
        found.loc[found["class"] == "boot", "value"].reset_index(drop=True), alone["value"]
    )


def test_a_class_that_one_set_lacks_keeps_its_rows():
    real, real_classes = by_class(hat=0, boot=0)
    other, classes = by_class(prefix="syn", hat=0)
    found = compare_classes(real, other, real_classes, classes, draws=50).set_index(["class", "statistic"])
    assert np.isnan(found.loc[("boot", "ks"), "value"]) and np.isfinite(found.loc[("hat", "ks"), "value"])
    assert found.loc[("boot", "ks"), "note"] == "too few images (0 < 10)"


def test_proportions_have_newcombes_interval():
    # Newcombe 1998, Statistics in Medicine 17, 873: 56 of 70 against 48 of 80, method 10.
    real, other = images([1] * 48 + [0] * 32), images([True] * 56 + [False] * 14, "syn")
    found = compare_proportions(real, other).set_index("statistic")
    assert found["value"].tolist() == pytest.approx([0.6, 0.8, 0.2])
    bounds = found[["ci_low", "ci_high"]].to_numpy()
    assert bounds[2] == pytest.approx([0.0524, 0.3339], abs=5e-5)
    assert bounds[:2].tolist() == pytest.approx(np.array([wilson_interval(48, 80), wilson_interval(56, 70)]))
    assert found["p"].iloc[2] == pytest.approx(0.00826, abs=1e-5)  # Miettinen & Nurminen's z, 2.641
    assert found["p"].iloc[:2].isna().all() and (found["note"] == "").all()


def test_proportions_of_clusters_count_as_fewer_images():
    hits = np.random.default_rng(0).random(60) < 0.3
    once = compare_proportions(images(hits), images(~hits, "syn"))
    copies = [images(np.repeat(x, 5), name) for x, name in ((hits, "real"), (~hits, "syn"))]
    clusters = [images(np.arange(300) // 5, name) for name in ("real", "syn")]
    blind, aware = compare_proportions(*copies), compare_proportions(*copies, *clusters)
    width = [(found["ci_high"] - found["ci_low"]).to_numpy() for found in (once, blind, aware)]
    assert width[2] == pytest.approx(width[0], rel=0.02) and (width[1] < 0.6 * width[0]).all()
    assert blind["p"].iloc[2] < aware["p"].iloc[2] == pytest.approx(once["p"].iloc[2], rel=0.3)


def test_proportions_that_never_vary_or_are_of_too_few():
    found = compare_proportions(images([0] * 50), images([0] * 40 + [np.nan], "syn"))
    assert found["value"].tolist() == [0, 0, 0] and (found["ci_high"] > 0).all()
    assert np.isnan(found["p"].iloc[2]) and "no outcome differs" in found["note"].iloc[2]
    assert found["note"].str.contains("1 of 41 synthetic images have no value").all()
    few = compare_proportions(images([0] * 50), images([1] * 9, "syn"))
    assert few["value"].tolist() == [0, 1, 1] and few[["ci_low", "ci_high", "p"]].isna().all(axis=None)
    assert np.isnan(compare_proportions(images([1] * 10), images([], "syn"))["value"].iloc[2])


GOOD = normal(20)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: compare_distributions(pd.concat([GOOD, GOOD[:2]]), GOOD), "real values: 2 ids repeat"),
        (
            lambda: compare_distributions(GOOD, GOOD.replace(GOOD.iloc[3], np.inf)),
            "synthetic values: 1 are inf",
        ),
        (lambda: compare_distributions(GOOD, GOOD, draws=0), "draws: found 0, expected 1 or more"),
        (lambda: compare_distributions(GOOD, GOOD, GOOD[:15]), "clusters: 5 images have none"),
        (lambda: compare_distributions(GOOD, GOOD, GOOD * 0), "clusters: found 1, expected at least 10"),
        (lambda: compare_classes(GOOD, GOOD, images(["a"] * 19), images(["a"] * 20)), "1 images have none"),
        (lambda: compare_classes(GOOD, GOOD, images(["a"] * 20), images(["b"] * 20)), "no class is in both"),
        (lambda: compare_proportions(GOOD > 50, GOOD), "synthetic outcomes: found .* expected 0, 1 or NaN"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()
