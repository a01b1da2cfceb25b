import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score
from statsmodels.stats.contingency_tables import mcnemar

from synreal.data.hierarchy import Hierarchy
from synreal.errors import InputError
from synreal.evaluate import (
    Predictions,
    compare,
    confidence,
    correct,
    expected_calibration_error,
    factor_accuracy,
    fine_grained_accuracy,
    relative_accuracy,
    reliability,
    report,
    restricted_correct,
    wilson_interval,
)

CLASSES = ("tabby", "siamese", "pug", "beagle", "boxer", "cup")
PETS = Hierarchy("pets", {"cat": CLASSES[:2], "dog": CLASSES[2:5], "thing": CLASSES[5:]})


def made(n=400, seed=0, skill=1.0, model="a", noise=None):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, len(CLASSES), n)
    logits = np.random.default_rng(noise or seed + 1).standard_normal((n, len(CLASSES)), dtype=np.float32)
    logits[np.arange(n), labels] += skill
    ids = np.array([f"i{index:05d}" for index in range(n)])
    return Predictions(ids, labels, logits, CLASSES, model, "h", "p", "pets")


def permuted(predictions, order):
    parts = {field: getattr(predictions, field)[order] for field in ("ids", "labels", "logits")}
    return Predictions(**(vars(predictions) | parts))


def factors_of(predictions, seed=5):
    """Flags for all but the first tenth of the images: one common factor, one rare, one of four images."""
    ids = predictions.ids[len(predictions) // 10 :]
    rng = np.random.default_rng(seed)
    flags = {"pose": rng.random(len(ids)) < 0.5, "darker": rng.random(len(ids)) < 0.1}
    return pd.DataFrame(flags | {"style": np.arange(len(ids)) < 4}, index=pd.Index(ids, name="id"))


def row_of(table, metric, group="all"):
    rows = table[(table["metric"] == metric) & (table["group"] == group)]
    assert len(rows) == 1
    return rows.iloc[0]


def test_restricted_accuracy_by_hand():
    logits = np.array(
        [
            [1, 0, 5, 0, 0, 0],  # tabby, a dog wins: wrong among all, right among cats
            [0, 3, 0, 0, 0, 0],  # siamese: right
            [2, 1, 0, 0, 0, 0],  # siamese: wrong
            [0, 0, 0, 9, 8, 0],  # boxer, beagle wins: wrong
            [0, 0, 0, 0, 0, 1],  # cup, alone in its group
        ],
        dtype=np.float32,
    )
    ids = np.array(list("abcde"))
    found = Predictions(ids, np.array([0, 1, 1, 4, 5]), logits, CLASSES, "m", "h", "p", "pets")
    table = fine_grained_accuracy(found, PETS)
    assert table[["classes", "n"]].to_numpy().tolist() == [[2, 3], [3, 1]]
    assert table["restricted"].tolist() == pytest.approx([2 / 3, 0])
    assert table["unrestricted"].tolist() == pytest.approx([1 / 3, 0])
    assert table[["restricted_low", "restricted_high"]].isna().all(axis=None)
    summary = report(found, PETS, draws=20)
    assert row_of(summary, "restricted_accuracy_micro")["value"] == pytest.approx(2 / 4)
    assert row_of(summary, "restricted_accuracy_macro")["value"] == pytest.approx((2 / 3 + 0) / 2)
    assert row_of(summary, "unrestricted_accuracy_micro")["value"] == pytest.approx(1 / 4)
    assert row_of(summary, "accuracy")["value"] == pytest.approx(2 / 5)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.integers(1, 60), st.floats(-1, 3), st.booleans())
def test_restricted_is_never_below_unrestricted(seed, n, skill, ties):
    found = made(n, seed, skill)
    if ties:
        found = Predictions(**(vars(found) | {"logits": np.round(found.logits)}))
    restricted = restricted_correct(found, PETS.members(CLASSES))
    assert (restricted >= correct(found)).all()


def test_a_class_outside_the_hierarchy_is_refused_by_name():
    without_cup = Hierarchy("pets", {"cat": CLASSES[:2], "dog": CLASSES[2:5]})
    with pytest.raises(InputError, match=r"'cup'\) are in no group"):
        report(made(), without_cup)


def test_report_values_as_other_libraries_compute_them():
    found, table = made(), report(made(), PETS, factors_of(made()), draws=50)
    guess = found.logits.argmax(axis=1)
    overall = row_of(table, "accuracy")
    assert overall["value"] == pytest.approx(accuracy_score(found.labels, guess))
    assert (overall["ci_low"], overall["ci_high"]) == wilson_interval((guess == found.labels).sum(), 400)
    flags = factors_of(found)
    annotated = pd.Series(guess == found.labels, index=found.ids)[flags.index]
    pose = annotated[flags["pose"]].mean()
    assert row_of(table, "factor_accuracy", "pose")["value"] == pytest.approx(pose)
    assert row_of(table, "annotated_accuracy")["n"] == len(flags) == 360
    relative = row_of(table, "relative_accuracy_annotated", "pose")
    assert relative["value"] == pytest.approx(pose / annotated.mean() - 1)
    assert relative["n"] == flags["pose"].sum()
    expected = pose / (guess == found.labels).mean() - 1
    assert row_of(table, "relative_accuracy_all", "pose")["value"] == pytest.approx(expected)
    expected = (1 - pose) / (1 - annotated.mean())
    assert row_of(table, "error_ratio", "pose")["value"] == pytest.approx(expected)


def loop_interval(correct, flags, draws, seed):
    """The relative measure's interval as one writes it down: resample images, compute, repeat."""
    rng, values = np.random.default_rng(seed), []
    for _ in range(draws):
        pick = rng.integers(0, len(correct), len(correct))
        values.append(correct[pick][flags[pick]].mean() / correct[pick].mean() - 1)
    return np.quantile(values, [0.025, 0.975])


def test_bootstrap_interval_of_the_relative_measure_agrees_with_a_plain_loop():
    found = made(600)
    flags = factors_of(found).reindex(found.ids, fill_value=False)
    row = row_of(report(found, None, flags, draws=4000, seed=1), "relative_accuracy_all", "pose")
    expected = loop_interval(correct(found).to_numpy(), flags["pose"].to_numpy(), 4000, seed=2)
    assert [row["ci_low"], row["ci_high"]] == pytest.approx(expected, abs=0.01)


def test_every_interval_holds_its_value_or_says_why_there_is_none():
    table = report(made(), PETS, factors_of(made()), draws=500)
    missing = table["ci_low"].isna()
    assert (missing == (table["note"] != "")).all()
    assert set(table.loc[missing, "group"]) == {"style"}
    assert set(table.loc[missing, "note"]) == {"too few images (4 < 10)"}
    # The bootstrap of the calibration error is biased upwards, as its docstring says.
    kept = table[~missing & (table["metric"] != "expected_calibration_error")]
    assert ((kept["ci_low"] <= kept["value"]) & (kept["value"] <= kept["ci_high"])).all()


def test_a_perfect_model_has_no_bootstrap_interval():
    row = row_of(report(made(skill=50), PETS, draws=50), "restricted_accuracy_macro")
    assert row["value"] == 1
    assert np.isnan(row["ci_low"])
    assert "all bootstrap draws are equal" in row["note"]


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 2**32 - 1), st.randoms(use_true_random=False))
def test_the_report_depends_on_the_seed_and_not_on_the_order_of_images(seed, random):
    found = made(80)
    order = random.sample(range(80), 80)
    factors = factors_of(found)
    table = report(found, PETS, factors, draws=30, seed=seed)
    again = report(permuted(found, order), PETS, factors.sample(frac=1, random_state=1), draws=30, seed=seed)
    pd.testing.assert_frame_equal(table, again)


def test_another_seed_gives_other_draws():
    tables = [report(made(), PETS, draws=30, seed=seed) for seed in (0, 1)]
    assert tables[0]["value"].equals(tables[1]["value"])
    assert not tables[0]["ci_low"].equals(tables[1]["ci_low"])


def test_a_coarse_group_without_images_has_no_value_and_stays_out_of_the_macro_average():
    found = made(200)
    cats = permuted(found, np.flatnonzero(found.labels < 2))
    table = report(cats, PETS, draws=30)
    dog = row_of(table, "restricted_accuracy", "dog")
    assert np.isnan(dog["value"])
    assert (dog["n"], dog["note"]) == (0, "too few images (0 < 10)")
    cat = row_of(table, "restricted_accuracy", "cat")
    assert row_of(table, "restricted_accuracy_macro")["value"] == pytest.approx(cat["value"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda table: table.set_axis([f"x{i}" for i in range(len(table))]),
            "none of the 360 ids of the table",
        ),
        (lambda table: table.astype(int), r"found others: \['pose', 'darker', 'style'\]"),
        (lambda table: table[[]], "expected columns of bool"),
        (
            lambda table: pd.concat([table, table.head(2)]),
            r"ids are not unique, first \['i00040', 'i00041'\]",
        ),
    ],
)
def test_a_factor_table_that_does_not_fit_is_refused(change, message):
    with pytest.raises(InputError, match=message):
        report(made(), None, change(factors_of(made())), draws=10)


def test_an_unknown_denominator_is_refused():
    with pytest.raises(
        InputError, match=r"denominator: found 'half', expected one of \['all', 'annotated'\]"
    ):
        relative_accuracy(correct(made()), factors_of(made()), "half")


def test_factor_accuracy_of_no_image_is_undefined():
    factors = factors_of(made()).assign(nothing=False)
    assert np.isnan(factor_accuracy(correct(made()), factors)["nothing"])


def test_confidence_is_the_largest_softmax_probability():
    found = made(30)
    expected = np.exp(found.logits) / np.exp(found.logits).sum(axis=1, keepdims=True)
    assert confidence(found).to_numpy() == pytest.approx(expected.max(axis=1), abs=1e-6)


def test_calibration_by_hand():
    index = pd.Index(list("abcd"))
    sure = pd.Series([0.95, 0.85, 0.25, 0.5], index=index)
    right = pd.Series([True, False, True, False], index=index)
    # Two bins: {0.25, 0.5} half right at mean 0.375, {0.95, 0.85} half right at mean 0.9.
    assert expected_calibration_error(sure, right, bins=2) == pytest.approx((0.125 + 0.4) / 2)
    table = reliability(sure, right, bins=2)
    assert table[["low", "high", "n"]].to_numpy().tolist() == [[0, 0.5, 2], [0.5, 1, 2]]
    assert table["confidence"].tolist() == pytest.approx([0.375, 0.9])
    assert table["accuracy"].tolist() == [0.5, 0.5]
    assert table["ci_low"].isna().all()


def test_calibration_refuses_no_bins_and_what_is_no_probability():
    sure, right = pd.Series([0.5, 1.5]), pd.Series([True, False])
    with pytest.raises(InputError, match=r"confidences from 0\.5 to 1\.5"):
        expected_calibration_error(sure, right)
    with pytest.raises(InputError, match="found 0 bins"):
        reliability(sure / 2, right, bins=0)


def test_reliability_bounds_and_counts():
    found = made()
    table = reliability(confidence(found), correct(found))
    assert table["n"].sum() == len(found)
    full = table[table["n"] >= 10]
    assert len(full) > 3
    assert ((full["ci_low"] <= full["accuracy"]) & (full["accuracy"] <= full["ci_high"])).all()


def test_compare_by_hand():
    a, b = made(skill=2.0), made(skill=1.0, model="b", noise=9)
    table = compare(a, b, PETS, factors_of(a), draws=1000)
    right = [correct(model).to_numpy() for model in (a, b)]
    row = row_of(table, "accuracy")
    assert row["difference"] == pytest.approx(right[0].mean() - right[1].mean())
    cells = [[(right[0] & right[1]).sum(), (right[0] & ~right[1]).sum()], [(~right[0] & right[1]).sum(), 0]]
    assert row["p"] == pytest.approx(mcnemar(cells, exact=True).pvalue)
    assert row["discordant"] == (right[0] != right[1]).sum()
    half = 1.96 * (right[0].astype(float) - right[1]).std() / np.sqrt(len(a))
    bounds = (row["difference"] - half, row["difference"] + half)
    assert (row["ci_low"], row["ci_high"]) == pytest.approx(bounds, abs=0.01)
    assert (row["model_a"], row["model_b"], row["data"]) == ("a", "b", "pets")


def test_compare_adjusts_p_values_across_the_factors_of_a_metric():
    a, b = made(skill=2.0), made(skill=1.0, model="b", noise=9)
    table = compare(a, b, PETS, factors_of(a), draws=200)
    pose, darker = (row_of(table, "factor_accuracy", factor) for factor in ("pose", "darker"))
    smaller, larger = sorted([pose, darker], key=lambda row: row["p"])
    # Two tested groups: the third factor has four images and counts as no test.
    assert smaller["p_holm"] == pytest.approx(min(1, 2 * smaller["p"]))
    assert larger["p_holm"] == pytest.approx(max(larger["p"], smaller["p_holm"]))
    style = row_of(table, "factor_accuracy", "style")
    assert style["note"] == "too few images (4 < 10)"
    assert style[["ci_low", "p", "p_holm", "mde"]].isna().all()
    assert darker["mde"] > pose["mde"] > 0
    assert row_of(table, "accuracy")["p_holm"] == row_of(table, "accuracy")["p"]


def test_swapping_the_models_turns_the_sign_and_nothing_else():
    a, b = made(skill=2.0), made(skill=1.0, model="b", noise=9)
    there, back = compare(a, b, PETS, draws=100, seed=3), compare(b, a, PETS, draws=100, seed=3)
    assert np.allclose(there["difference"], -back["difference"])
    assert np.allclose(there["ci_low"], -back["ci_high"])
    assert np.allclose(there["p"], back["p"])


def test_a_model_does_not_differ_from_itself():
    table = compare(made(), made(), PETS, factors_of(made()), draws=50)
    tested = table[table["group"] != "style"]
    assert (tested["difference"] == 0).all()
    assert (tested["p"] == 1).all()
    assert tested["ci_low"].isna().all()
    assert tested["note"].str.contains("all bootstrap draws are equal").all()
    assert (tested.loc[tested["test"] == "mcnemar", "mde"] > 0).all()


def test_compare_does_not_depend_on_the_order_of_images():
    a, b = made(skill=2.0), made(skill=1.0, model="b", noise=9)
    order = np.random.default_rng(0).permutation(len(a))
    first = compare(a, b, PETS, factors_of(a), draws=50)
    again = compare(a, permuted(b, order), PETS, factors_of(a), draws=50)
    pd.testing.assert_frame_equal(first, again)


def test_compare_refuses_other_images():
    with pytest.raises(InputError, match=r"1 ids are in one of the two only, first \['i00399'\]"):
        compare(made(400), made(399))


def copies(times):
    """One set of images, each `times` times over, and which image each copy shows."""
    once = made(200)
    again = np.tile(np.arange(200), times)
    ids = np.array([f"i{k:03d}-{n}" for n, k in enumerate(again)])
    parts = {"ids": ids, "labels": once.labels[again], "logits": once.logits[again]}
    return Predictions(**(vars(once) | parts)), pd.Series([f"photo {k}" for k in again], index=ids)


def test_copies_of_an_image_tell_nothing_new():
    found, shown = copies(4)
    alone = report(made(200), PETS, draws=2000).set_index(["metric", "group"])
    cloned = report(found, PETS, clusters=shown, draws=2000).set_index(["metric", "group"])
    naive = report(found, PETS, draws=2000).set_index(["metric", "group"])
    width = [(t["ci_high"] - t["ci_low"]).dropna() for t in (alone, cloned, naive)]
    assert np.allclose(cloned["value"], alone["value"]) and (cloned["n"] == 4 * alone["n"]).all()
    assert np.allclose(width[1], width[0], rtol=0.15)  # rows are in another order, so draws differ
    assert (width[2] < 0.65 * width[1]).all()


def test_clusters_replace_mcnemars_test_by_the_bootstrap():
    (a, shown), b = copies(4), None
    weaker = made(200, skill=0.6, model="b", noise=9)
    b = Predictions(**(vars(a) | {"logits": np.tile(weaker.logits, (4, 1)), "model": "b"}))
    naive, honest = (compare(a, b, PETS, clusters=c, draws=1000) for c in (None, shown))
    rows = [row_of(table, "accuracy") for table in (naive, honest)]
    assert [row["test"] for row in rows] == ["mcnemar", "bootstrap"]
    assert rows[0]["difference"] == rows[1]["difference"] and rows[0]["p"] < rows[1]["p"]
    assert rows[1]["mde"] > 1.5 * rows[0]["mde"]


def test_images_of_few_clusters_are_few_however_many_they_are():
    found, shown = copies(4)
    rare = shown.isin([f"photo {k}" for k in range(7)]).to_frame("rare")
    other = Predictions(**(vars(found) | {"logits": -found.logits, "model": "b"}))
    rows = [
        row_of(table, "factor_accuracy", "rare")
        for table in (report(found, None, rare, shown, 50), compare(found, other, None, rare, shown, 50))
    ]
    assert all(row["n"] == 28 and row["note"] == "too few clusters (7 < 10)" for row in rows)
    assert np.isnan([rows[0]["ci_low"], rows[1]["p"]]).all()
