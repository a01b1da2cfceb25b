"""What chapter 04_retrieval records and shows, on made accuracies and on a small corpus."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from synreal.book import retrieval as chapter
from synreal.book import retrieval_sets as sets
from synreal.book import retrieval_views as views
from synreal.book.study import Study, read_results
from synreal.data.hierarchy import SCENES_HIERARCHY
from synreal.data.scenes import scene_set
from synreal.data.sprites import CLASS_NAMES
from synreal.data.tasks import Counts, open_task
from synreal.errors import InputError
from synreal.evaluate.repeated import (
    Accuracies,
    Effect,
    accuracies,
    broad_hits,
    fine_hits,
    hits_by_training,
    perturbation_costs,
)
from synreal.models.predictions import Predictions
from synreal.retrieve.corpus import open_corpus
from synreal.retrieve.filters import Filters
from synreal.retrieve.manifest import MANIFEST
from synreal.retrieve.semantic import Lookup
from synreal.train.adapt import READINGS, Adapted

RATES = {  # by source and budget: how often the made model is right
    ("unadapted", 0): 0.5, ("retrieved", 40): 0.6, ("retrieved", 200): 0.8, ("synthetic", 40): 0.5,
    ("synthetic", 200): 0.6, ("synthetic", 800): 0.65, ("mixture", 200): 0.8,
}  # fmt: skip


def made(task, rate, seed, spread=0.0):
    """Predictions that are right about as often as `rate`, otherwise the next class."""
    labels = np.array(task.test["label"][:])
    rng = np.random.default_rng(seed)
    right = rng.random(len(labels)) < rate + spread * rng.normal()
    logits = (
        5
        * np.eye(len(task.class_names), dtype=np.float32)[
            np.where(right, labels, (labels + 1) % len(task.class_names))
        ]
    )
    names = tuple(task.class_names)
    return Predictions(np.array(task.test["id"][:]), labels, logits, names, "made", "h", "p", task.name)


@pytest.fixture(scope="module")
def tasks():
    return [open_task(name, Counts(40, 30, 200)) for name in ("scenes", "scenes:tops")]


@pytest.fixture(scope="module")
def found(tasks):
    runs = []
    for place, task in enumerate(tasks):
        for number, ((source, budget), rate) in enumerate(RATES.items()):
            for seed in range(1 if source == "unadapted" else 3):
                key = 1000 * place + 10 * number + seed
                answers = {reading: made(task, rate, key) for reading in READINGS}
                runs.append(Adapted(task.name, source, budget, seed, answers))
    return accuracies(runs, tasks)


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.setenv("SYNREAL_RUN_DIR", str(tmp_path))
    return Study("04_retrieval", "quick")


def recorded(study):
    return read_results(study.folder).set_index(["metric", "model", "data"]).sort_index()


def test_means_and_deviations_are_those_of_the_trainings(found, tasks):
    rows = found.table.set_index(["task", "reading", "source", "budget"])
    row = rows.loc[("all classes", "probe", "retrieved", 200)]
    shares = [made(tasks[0], 0.8, 20 + seed) for seed in range(3)]
    hits = [(one.logits.argmax(axis=1) == one.labels).mean() for one in shares]
    assert row["value"] == pytest.approx(np.mean(hits)) and row["sd"] == pytest.approx(np.std(hits, ddof=1))
    assert row["ci_low"] < row["value"] < row["ci_high"] and (row["seeds"], row["n"]) == (3, 200)
    assert rows.loc["tops"]["n"].unique().tolist() == [len(tasks[1].test)]


def test_a_clear_advantage_is_recorded_as_one(study, found):
    table = chapter.record_advantages(study, found, seed=0)
    rows = recorded(study)
    large = rows.loc[("zero-shot/advantage", "retrieved vs synthetic, 200", "all classes")]
    assert large["ci_low"] > 0 and large["value"] == pytest.approx(0.2, abs=0.1)
    least = rows.loc[("zero-shot/smallest advantage", "retrieved vs synthetic", "all tasks")]
    zero_shot = table[table["reading"] == "zero-shot"]
    assert least["value"] == pytest.approx(zero_shot["value"].min())
    cell = zero_shot.loc[zero_shot["value"].idxmin()]
    assert least["ci_low"] < cell["ci_low"]  # holds for all at once
    assert (table["p_holm"] >= table["p"]).all()


def test_the_least_of_several_is_as_uncertain_as_any_that_may_be_it(found):
    """One cell is least and certain, another is nearly as low and wide: the least may be that one."""
    images, alike = np.zeros(20), np.array([-1e-3, 0.0, 1e-3])
    cells = {"a": Effect(alike, images, 20), "b": Effect(0.01 + 50 * alike, images, 20)}
    made = Accuracies(found.table, cells, np.arange(20))
    one, other = (lambda cells, key=key: cells[key] for key in "ab")
    least, largest = (made.extreme([one, other], largest=end) for end in (False, True))
    assert least["value"] == 0 and least["ci_low"] < -0.1 and least["ci_high"] < 0.01
    assert largest["value"] == pytest.approx(0.01) and largest["ci_high"] > 0.1 and largest["ci_low"] > -0.01


def test_tasks_that_share_images_and_trainings_vary_together(tasks):
    """The same answers asked about twice under two names: their difference is 0, and knows no chance."""
    twin = replace(tasks[0], name="twin")
    both = [
        Adapted(task.name, "retrieved", 40, seed, {r: made(tasks[0], 0.6, seed) for r in READINGS})
        for task in (tasks[0], twin)
        for seed in range(3)
    ]
    known = accuracies(both, [tasks[0], twin])
    cells = [(name, "probe", "retrieved", 40) for name in ("all classes", "twin")]
    effect = known.effect(lambda means: means[cells[0]] - means[cells[1]])
    assert effect["value"] == 0 and np.isnan(effect["ci_low"])


def test_beyond_stands_more_synthetic_against_all_retrieved(study, found):
    table = chapter.record_beyond(study, found, seed=0)
    assert set(table["retrieved"]) == {200} and set(table["synthetic"]) == {800}
    mean = recorded(study).loc[
        ("probe/mean advantage beyond", "retrieved vs synthetic", "all tasks"), "value"
    ]
    assert mean == pytest.approx(table[table["reading"] == "probe"]["value"].mean())


def test_improvements_and_mixtures_are_against_the_right_model(study, found):
    table = chapter.record_improvements(study, found, seed=0)
    mixed = chapter.record_mixtures(study, found, seed=0)
    own = table[(table["source"] == "synthetic") & (table["task"] == "tops")].iloc[0]
    means = found.means
    expected = means["tops", own["reading"], "synthetic", 200] - means["tops", own["reading"], "unadapted", 0]
    assert own["value"] == pytest.approx(float(expected)) and own["budget"] == 200
    largest = recorded(study).loc[("largest improvement", "retrieved", "all tasks")]
    assert largest["value"] == pytest.approx(table[table["source"] == "retrieved"]["value"].max())
    assert set(mixed["budget"]) == {200} and len(mixed) == 4


def test_figures_and_tables_say_what_was_measured(study, found):
    advantages = chapter.record_advantages(study, found, 0)
    past, gains = chapter.record_beyond(study, found, 0), chapter.record_improvements(study, found, 0)
    figure = views.curves(found, "probe")
    titles = [axes.get_title("left") or axes.get_title() for axes in figure.axes]
    assert titles == ["all classes\nn = 200", f"tops\nn = {found.n('tops')}"]
    assert "all classes, 200 images: retrieved" in views.curves_alt(found, "probe")
    text = views.accuracy_table(found, "probe").loc[("tops", 200), "retrieved"]
    assert " ± " in text and views.accuracy_table(found, "probe").loc[("tops", 0), "unadapted"][0] == "0"
    assert "of 8 intervals" in views.effects_alt(advantages, "x")
    assert list(views.effect_table(past, ["task", "reading"]).columns) == ["difference", "95 % interval"]
    costs = pd.DataFrame(columns=["detail", "strength", "ci_low", "ci_high"])
    beside = views.beside_paper(advantages, past, gains, costs)["here"]
    assert "above 0" in beside["as many images"] and beside["strength 0.6 and more"] == "not measured"


def test_fine_and_broad_hits(tasks):
    task = tasks[0]
    answers = made(task, 1.0, 0)
    shirts = CLASS_NAMES.index("shirt")
    logits = answers.logits.copy()
    coats = answers.labels == CLASS_NAMES.index("coat")
    logits[coats] = 5 * np.eye(10, dtype=np.float32)[shirts]  # every coat is taken for a shirt
    wrong = replace(answers, logits=logits)
    fine, broad = fine_hits(wrong, SCENES_HIERARCHY, "tops"), broad_hits(wrong, SCENES_HIERARCHY)
    assert broad.all() and len(broad) == 200
    assert len(fine) == len(tasks[1].test) and fine.sum() == len(fine) - coats.sum()


def test_costs_are_losses_against_unperturbed_images(tasks, study):
    task = tasks[0]
    runs = {s: [made(task, rate, seed) for seed in range(3)] for s, rate in ((0.0, 0.9), (0.8, 0.5))}
    table = perturbation_costs(runs, SCENES_HIERARCHY, "tops", task.clusters)
    chapter.record_costs(study, table, task.name, 0)
    cost = table.set_index(["detail", "strength"])["cost"]
    assert cost["fine", 0.0] == 0 and cost["broad", 0.8] > 0.2
    assert cost["fine minus broad", 0.8] == pytest.approx(cost["fine", 0.8] - cost["broad", 0.8])
    assert ("perturbed/fine cost", "strength 0.8", "all classes") in recorded(study).index
    assert "broad at 0.8: +" in views.costs_alt(table) and len(views.costs(table).axes) == 1


def test_trainings_are_of_the_same_images(tasks):
    with pytest.raises(InputError, match="different images"):
        hits_by_training([made(task, 0.7, 0) for task in tasks])


def test_sources_are_cleaned_alike_and_planned(tasks, tmp_path, monkeypatch):
    monkeypatch.setenv("SYNREAL_CACHE", str(tmp_path))
    corpus = open_corpus("scenes/upstream", 200)
    embedded = sets.embed_pool(corpus, "CLIP-Real-3k")
    leaked = tasks[0].test.select(range(3)).remove_columns("id").add_column("id", ["a", "b", "c"])
    synthetic = sets.concatenate_datasets([scene_set("train", 150, seed=5), leaked])
    family = sets.families(tasks[::-1])[0]
    assert [task.name for task in family] == ["all classes", "tops"]
    found = sets.make_sources(corpus, embedded, synthetic, family, Lookup(), 10, Filters())
    assert found.rejected["synthetic"] == (3, 153) and found.rejected["retrieved"][0] == 0
    assert not set(found.synthetic["id"]) & {"a", "b", "c"}
    assert [len(curve) for curve in found.sensitivity.values()] == [21, 21]
    sets.save_accounts([found], "scenes/upstream", tmp_path / "retrieved")
    account = tmp_path / "retrieved" / "all-classes"
    refused = pd.read_csv(account / "synthetic_ledger.csv")
    assert refused["id"].tolist() == ["a", "b", "c"] and set(refused["reason"]) == {"same pixels as"}
    assert refused["nearest"].str.startswith("test/").all()
    assert len(json.loads((account / MANIFEST).read_text())["images"]) == len(found.retrieved)
    runs = sets.planned(found, [10, 30], [10], 60, seeds=2)
    sizes = [(run.source, len(run.images), len(run.tasks[0].class_names)) for run in runs if run.seed == 0]
    assert ("synthetic", 60, 10) in sizes and ("mixture", 30, 10) in sizes and ("retrieved", 10, 4) in sizes
    assert sum(not run.adapted for run in runs) == 2


def test_sheets_show_every_set(tasks):
    images = tasks[0].test
    sheet = views.side_by_side({"real": images, "synthetic": images}, ["coat", "bag"], 0, count=2)
    assert len(sheet.axes[0].images) == 8
    strengths = views.strengths_sheet({0.0: images, 0.8: images}, range(3))
    assert [text.get_text() for text in strengths.axes[0].texts].count("0.8") == 3
