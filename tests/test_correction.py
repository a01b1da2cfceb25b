"""Judge-corrected consistency, against simulated judges and label noise of known size."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from synreal.data.sprites import CLASS_NAMES
from synreal.errors import InputError
from synreal.evaluate import Predictions, correct
from synreal.generate.rerender import Defects, rerendered_set
from synreal.synbench.correction import LARGEST_CONDITION, condition_number, corrected_consistency

CLASSES = ("shirt", "coat", "sneaker", "boot")
JUDGE = np.array([[0.7, 0.25, 0.03, 0.02], [0.3, 0.6, 0.05, 0.05], [0, 0.02, 0.78, 0.2], [0, 0, 0.15, 0.85]])


def judged(shown, labels, judge=JUDGE, classes=CLASSES, seed=0, surer=0.0, name="set"):
    """Answers drawn from the row of the class shown; wrong ones are less confident, `surer` moves all."""
    rng = np.random.default_rng(seed)
    answers = (rng.random((len(shown), 1)) > judge.cumsum(axis=1)[shown]).sum(axis=1)
    answers = answers.clip(max=len(classes) - 1)
    logits = np.zeros((len(shown), len(classes)), np.float32)
    right = answers == shown
    logits[np.arange(len(shown)), answers] = 1.5 + surer + right + rng.random(len(shown))
    ids = np.array([f"{index:06d}" for index in range(len(shown))])
    return Predictions(ids, np.asarray(labels), logits, classes, "judge", "m", "p", name)


def real_set(n=4000, judge=JUDGE, seed=1, **more):
    labels = np.arange(n) % len(judge)
    return judged(labels, labels, judge, seed=seed, name="real", **more)


def synthetic_set(noise, n=4000, seed=2, **more):
    """Of label y a share `noise` shows the next class."""
    rng = np.random.default_rng(seed + 1000)
    labels = np.arange(n) % len(CLASSES)
    shown = np.where(rng.random(n) < np.asarray(noise)[labels], (labels + 1) % len(CLASSES), labels)
    return judged(shown, labels, seed=seed, name="synthetic", **more), 1 - (shown != labels).mean()


def row_of(table, metric="corrected_consistency", group="all"):
    [row] = table[(table["metric"] == metric) & (table["group"] == group)].to_dict("records")
    return row


def test_known_label_noise_is_recovered_where_the_raw_rate_misses_it():
    noise = np.array([0.3, 0.1, 0.0, 0.2])
    synthetic, truth = synthetic_set(noise)
    table = corrected_consistency(real_set(), synthetic, draws=300)
    row = row_of(table)
    assert row["ci_low"] < truth < row["ci_high"] and row["ci_high"] - row["ci_low"] < 0.08
    assert row["n"] == 4000 and row["note"] == "" and row["interval"] == "bootstrap"
    assert correct(synthetic).mean() < row["ci_low"] - 0.1
    for label, name in enumerate(CLASSES):
        found = row_of(table, group=name)
        assert found["n"] == 1000 and abs(found["value"] - (1 - noise[label])) < 0.12
    checked = row_of(table, "confidence_gap")
    assert checked["ci_low"] < 0 < checked["ci_high"]
    assert row_of(table, "condition_number")["value"] == pytest.approx(np.linalg.cond(JUDGE), rel=0.2)


@pytest.mark.parametrize("noise", [0.0, 0.25])
def test_with_enough_real_images_the_bias_is_small_and_the_interval_covers(noise):
    rows, truths = [], []
    for seed in range(40):
        synthetic, truth = synthetic_set([noise] * 4, n=200, seed=seed)
        rows.append(row_of(corrected_consistency(real_set(800, seed=99 + seed), synthetic, draws=150)))
        truths.append(truth)
    errors = np.array([row["value"] for row in rows]) - truths
    assert abs(errors.mean()) < 3 * errors.std() / np.sqrt(len(errors))
    covered = [row["ci_low"] <= truth <= row["ci_high"] for row, truth in zip(rows, truths, strict=True)]
    assert np.mean(covered) > 0.85  # 40 intervals of 95 %


def test_few_real_images_bias_the_estimate_and_the_note_says_so():
    errors = {}
    for n in (80, 800):  # 20 and 200 of each class
        rows = [
            row_of(corrected_consistency(real_set(n, seed=s), synthetic_set([0] * 4, seed=s)[0], draws=1))
            for s in range(100, 200)
        ]
        errors[n] = np.array([row["value"] for row in rows if np.isfinite(row["value"])]) - 1
    assert errors[80].mean() > 3 * errors[80].std() / np.sqrt(len(errors[80])) > 0
    assert abs(errors[800].mean()) < 0.02 < errors[80].mean()
    table = corrected_consistency(real_set(399), synthetic_set([0.2] * 4)[0], draws=20)
    assert row_of(table)["note"] == row_of(table, "confidence_gap")["note"]
    assert row_of(table)["note"] == "biased: 99 real images of boot, fewer than 100"


def test_confusion_of_re_rendered_scenes_is_recovered():
    ds = rerendered_set("val", 1500, Defects(confusion=0.4))
    judge = np.full((10, 10), 0.03) + 0.7 * np.eye(10)
    asked, shown = np.array(ds["label"][:]), np.array(ds["true_label"][:])
    synthetic = judged(shown, asked, judge, CLASS_NAMES, seed=3)
    real = real_set(3000, judge, classes=CLASS_NAMES)
    row = row_of(corrected_consistency(real, synthetic, draws=300))
    assert row["ci_low"] < (asked == shown).mean() < row["ci_high"]
    assert 0.6 < (asked == shown).mean() < 0.68 and correct(synthetic).mean() < 0.56


def test_real_images_set_against_themselves_are_consistent():
    real = real_set()
    table = corrected_consistency(real, real, draws=20)
    shares = table[table["metric"] == "corrected_consistency"]["value"]
    assert shares.to_numpy() == pytest.approx(np.ones(5))
    assert row_of(table, "confidence_gap")["value"] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("surer", [-0.3, 0.3])
def test_images_that_look_different_to_the_judge_show_in_its_confidence(surer):
    synthetic, _ = synthetic_set([0.2] * 4, surer=surer)
    checked = row_of(corrected_consistency(real_set(), synthetic, draws=100), "confidence_gap")
    assert checked["value"] * surer > 0 and checked["ci_low"] * checked["ci_high"] > 0


def test_a_judge_that_cannot_tell_two_classes_identifies_nothing():
    blind = JUDGE.copy()
    blind[1] = blind[0]
    real = real_set(judge=blind)
    table = corrected_consistency(real, replace(real, image_set="synthetic"), draws=5)
    assert condition_number(real) > LARGEST_CONDITION
    row = row_of(table)
    assert np.isnan([row["value"], row["ci_low"], row["ci_high"]]).all()
    assert row["note"].startswith("not identified: condition number")
    assert row_of(table, "condition_number")["value"] == condition_number(real)


def test_a_judge_with_one_answer_identifies_nothing_and_leaves_only_finite_numbers():
    always = np.tile([1.0, 0, 0, 0], (4, 1))
    real = real_set(judge=always)
    table = corrected_consistency(real, replace(real, image_set="synthetic"), draws=5)
    assert condition_number(real) == np.inf and table["value"].isna().all()
    assert row_of(table)["note"] == "not identified: condition number inf > 20"
    assert row_of(table, "condition_number")["note"] == "infinite: the judge's confusion has no inverse"


def test_the_order_of_images_and_clusters_of_one_make_no_difference():
    real, (synthetic, _) = real_set(400), synthetic_set([0.2] * 4, n=400)
    order = np.random.default_rng(0).permutation(400)
    parts = {name: getattr(synthetic, name)[order] for name in ("ids", "labels", "logits")}
    table = corrected_consistency(real, synthetic, draws=30)
    pd.testing.assert_frame_equal(table, corrected_consistency(real, replace(synthetic, **parts), draws=30))
    alone = pd.Series(synthetic.ids, index=synthetic.ids)
    again = corrected_consistency(real, synthetic, clusters=(None, alone), draws=30)
    pd.testing.assert_frame_equal(table, again)
    frames = pd.Series([f"video {i // 20}" for i in range(400)], index=synthetic.ids)
    wide = corrected_consistency(real, synthetic, clusters=(None, frames), draws=30)
    assert row_of(wide)["value"] == row_of(table)["value"]
    assert row_of(wide)["ci_low"] != row_of(table)["ci_low"]


def test_few_images_have_no_interval_and_absent_classes_no_row():
    synthetic, _ = synthetic_set([0] * 4, n=400)
    kept = np.flatnonzero((synthetic.labels < 2) | ((synthetic.labels == 2) & (np.arange(400) < 20)))
    parts = {name: getattr(synthetic, name)[kept] for name in ("ids", "labels", "logits")}
    table = corrected_consistency(real_set(), replace(synthetic, **parts), draws=20)
    assert "boot" not in set(table["group"])
    few = row_of(table, group="sneaker")
    assert few["note"] == "too few images (5 < 10)" and np.isnan(few["ci_low"]) and np.isfinite(few["value"])


def test_bad_input_is_refused():
    synthetic, _ = synthetic_set([0] * 4)
    with pytest.raises(InputError, match=r"fewer than 10 images of 4 .*\[shirt, coat, .*`consistency.among`"):
        corrected_consistency(real_set(32), synthetic)
    with pytest.raises(InputError, match="model_hash differs; predict both with the same judge"):
        corrected_consistency(replace(real_set(), model_hash="other"), synthetic)
