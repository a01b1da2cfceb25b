"""What chapter 03b_interventions records, decides and shows, on made answers."""

import numpy as np
import pandas as pd
import pytest

from synreal.book import interventions as chapter
from synreal.book import interventions_views as views
from synreal.book.claims import load_claims
from synreal.book.study import Study, read_results
from synreal.evaluate.planner import Plan, Prices, fit_mixes, plan_for_budget
from synreal.evaluate.scaling_laws import exchange_rates, measured
from synreal.evaluate.slices import enriched_test
from synreal.train.interventions import Mix, dial_grid

SEEDS = 3


@pytest.fixture(scope="module")
def test_set():
    return enriched_test(600, 150, split="val")


@pytest.fixture(scope="module")
def grid():
    return dial_grid(["scale", "brightness", "person"], [0.5, 1.0])


def answers(labels, error, seed):
    """Logits [seeds, N, 10], wrong with chance `error` [N]; every call errs on the same images."""
    logits = []
    for repeat in range(SEEDS):
        rng = np.random.default_rng(repeat)
        wrong = rng.random(len(labels)) < error + 0.02 * np.random.default_rng(seed * 10 + repeat).random()
        logits.append(np.eye(10, dtype=np.float32)[np.where(wrong, (labels + 1) % 10, labels)])
    return np.stack(logits)


@pytest.fixture(scope="module")
def outcomes(test_set, grid):
    """Scale hurts small and large objects in proportion and is repaired; brightness does nothing at all."""
    rare = test_set.factors[["smaller", "larger"]].any(axis=1).to_numpy()
    found = {}
    for at, defects in enumerate(grid):
        harm = 0.4 * defects.scale * rare
        noise = 0 if defects.brightness else at
        pair = [answers(test_set.labels, 0.3 + harm * left, noise) for left in (1, 0.25)]
        found[defects] = np.stack(pair)
    return found


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.setenv("SYNREAL_RUN_DIR", str(tmp_path))
    return Study("03b_interventions", "quick")


def test_the_dial_is_recorded_under_the_names_that_claims_use(study, outcomes, test_set):
    table = chapter.record_dial(study, outcomes, test_set, seed=0)
    rows = read_results(study.folder).set_index(["metric", "model"])["value"]
    assert rows["accuracy_change/matching", "scale 1"] == pytest.approx(-0.4, abs=0.06)
    assert rows["accuracy_change/counterpart", "scale 1"] == pytest.approx(0, abs=0.03)
    assert rows["accuracy_change/matching", "scale 0.5"] == pytest.approx(-0.2, abs=0.06)
    assert rows["repair/matching", "scale 1"] == pytest.approx(0.3, abs=0.06)
    assert ("accuracy/all", "no defect (RealTune)") in rows.index
    named = {(c.effect.metric, c.effect.model) for claim in load_claims()
             if claim.chapter == study.name for c in claim.conditions}  # fmt: skip
    assert {pair for pair in named if "confusion" not in pair[1]} <= set(rows.index)
    at_zero = table[(table["dose"] == 0) & (table["probe"] == "matching")]
    assert (at_zero["value"] == 0).all() and at_zero["level"].between(0.6, 0.8).all()


def test_verdicts(study, outcomes, test_set):
    table = chapter.record_dial(study, outcomes, test_set, seed=0)
    found = chapter.dial_verdicts(table, tolerance=0.03)
    assert found.loc["scale", "verdict"] == "causes" and found.loc["scale", "p, Holm"] < 0.01
    assert found.loc["brightness", "verdict"] == "does not: no answer changed"
    strict = chapter.dial_verdicts(table, tolerance=0.0)["verdict"]
    assert strict["person"] == "undecided"
    loose = chapter.dial_verdicts(table, tolerance=0.5)["verdict"]
    assert loose["person"].startswith("does not, within 0.0")


def test_figures_of_the_dial(study, outcomes, test_set, grid):
    table = chapter.record_dial(study, outcomes, test_set, seed=0)
    figure = views.dose_response(table)
    titles = [axes.get_title(loc="left") or axes.get_title() for axes in figure.axes if axes.axison]
    assert sorted(titles)[-1] == "scale: small or large objects" and len(titles) == 3
    crossed = chapter.cross_changes(outcomes, test_set, 1.0)
    assert len(crossed) == 12
    words = [text.get_text() for text in views.cross_figure(crossed).axes[0].texts]
    assert sum(word.endswith("*") for word in words) >= 1 and len(words) == 12
    assert "scale: -0." in views.dose_alt(chapter.dial_verdicts(table, 0.03))
    assert len(views.dosed_scenes(grid[:2], 3).axes) == 6


def test_numbers_that_are_not_known_are_recorded_with_the_reason(study):
    bounds = {"worth_low": np.nan, "worth_high": np.nan}
    rates = pd.DataFrame([{"real_images": 7, "worth": np.nan, "verdict": "nothing more", **bounds}])
    chapter.record_rates(study, {"unknown": rates}, {"unknown": 600}, seed=0)
    gains = {"real only": (np.nan, np.nan, np.nan)}
    plan = Plan(0, 9, 9.0, (0.5, 0.4, 0.6), (0, 0), (9, 9), gains, {"synthetic only": 1.0}, 1.0)
    chapter.record_plan(study, plan, 600, seed=0)
    reasons = read_results(study.folder).set_index(["metric", "model"])["reason"]
    assert reasons["worth_of_synthetic/unknown", "7 real images"] == "nothing more"
    assert reasons["planned_gain", "mix vs real only"] == "the budget buys less than was measured"


def test_exchange_and_plan(study, test_set):
    sizes = [Mix(n, 0) for n in (100, 200, 400, 800)] + [Mix(0, n) for n in (100, 200, 400, 800)]
    sizes += [Mix(100, 200), Mix(200, 400)]
    errors = [0.2 + 0.4 * ((mix.real + 0.3 * mix.synthetic) / 30) ** -0.6 for mix in sizes]
    logits = np.stack([answers(test_set.labels, error, at) for at, error in enumerate(errors)])
    part = measured(sizes, logits, test_set, "accuracy", draws=20)
    assert part.n == 600 and part.draws.shape == (20, len(sizes) * SEEDS)
    curves = (part.curve("real"), part.curve("synthetic"))
    rates = exchange_rates(*curves, [100, 200])
    chapter.record_rates(study, {"accuracy": rates}, {"accuracy": part.n}, seed=0)
    plan = plan_for_budget(fit_mixes(part.table, part.draws), Prices(1.0, 0.05), 100.0)
    chapter.record_plan(study, plan, part.n, seed=0)
    rows = read_results(study.folder).set_index(["metric", "model"])
    assert 0 < rows.loc[("worth_of_synthetic/accuracy", "100 real images"), "value"] < 1
    assert rows.loc[("planned_gain", "mix vs real only"), "value"] > 0
    assert list(views.rates_table({"accuracy": rates}).index) == [100, 200]
    figure = views.size_curves({"accuracy": part.table}, {"accuracy": curves}, {"accuracy": part.n})
    assert figure.axes[0].get_xscale() == "log"
    assert "bootstrap draws that choose" in views.plan_table(plan).index
    assert views.plan_figure(fit_mixes(part.table, part.draws), Prices(1.0, 0.05), 100.0).axes
