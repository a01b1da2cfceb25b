"""Chapter 07_retrieval: its accuracies on made predictions, and what it refuses before it embeds."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from synreal.data.hierarchy import SCENES_HIERARCHY
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
from synreal.train.adapt import PROTOCOLS, Adapted

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
                answers = {protocol: made(task, rate, key) for protocol in PROTOCOLS}
                runs.append(Adapted(task.name, source, budget, seed, answers))
    return accuracies(runs, tasks)


def test_means_and_deviations_are_those_of_the_trainings(found, tasks):
    rows = found.table.set_index(["task", "protocol", "source", "budget"])
    row = rows.loc[("all classes", "probe", "retrieved", 200)]
    shares = [made(tasks[0], 0.8, 20 + seed) for seed in range(3)]
    hits = [(one.logits.argmax(axis=1) == one.labels).mean() for one in shares]
    assert row["value"] == pytest.approx(np.mean(hits)) and row["sd"] == pytest.approx(np.std(hits, ddof=1))
    assert row["ci_low"] < row["value"] < row["ci_high"] and (row["seeds"], row["n"]) == (3, 200)
    assert rows.loc["tops"]["n"].unique().tolist() == [len(tasks[1].test)]


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
        Adapted(task.name, "retrieved", 40, seed, {r: made(tasks[0], 0.6, seed) for r in PROTOCOLS})
        for task in (tasks[0], twin)
        for seed in range(3)
    ]
    known = accuracies(both, [tasks[0], twin])
    cells = [(name, "probe", "retrieved", 40) for name in ("all classes", "twin")]
    effect = known.effect(lambda means: means[cells[0]] - means[cells[1]])
    assert effect["value"] == 0 and np.isnan(effect["ci_low"])


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


def test_costs_are_losses_against_unperturbed_images(tasks):
    task = tasks[0]
    runs = {s: [made(task, rate, seed) for seed in range(3)] for s, rate in ((0.0, 0.9), (0.8, 0.5))}
    table = perturbation_costs(runs, SCENES_HIERARCHY, "tops", task.clusters)
    cost = table.set_index(["detail", "strength"])["cost"]
    assert cost["fine", 0.0] == 0 and cost["broad", 0.8] > 0.2
    assert cost["fine minus broad", 0.8] == pytest.approx(cost["fine", 0.8] - cost["broad", 0.8])


def test_trainings_are_of_the_same_images(tasks):
    with pytest.raises(InputError, match="different images"):
        hits_by_training([made(task, 0.7, 0) for task in tasks])


QUICK = {"profile": "quick", "train": 20, "val": 20, "test": 60, "per_class": 4, "seeds": 1}
QUICK |= {"tasks": ["scenes", "scenes:tops"], "budgets": [10, 40], "part_budgets": [16]}


def run_checks(**given):
    """The cells of the chapter up to the one that embeds, with these parameters."""
    path = Path(__file__).resolve().parents[1] / "notebooks" / "07_retrieval.ipynb"
    cells, names = json.loads(path.read_text(encoding="utf-8"))["cells"], {}
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    for number, cell in enumerate(code[: [cell["id"] for cell in code].index("07-embed")]):
        exec("".join(cell["source"]), names)
        if number == 0:
            names.update(QUICK | given)
    return names


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"tasks": []}, r"tasks: found \[\]"),
        ({"tasks": ["scenes", "scenes"]}, "expected one or more of different names"),
        ({"shown": ["hat"]}, r"shown: \['hat'\] are not among"),
        ({"budgets": [50]}, r"^budgets: found \[50\], expected different numbers from 1 to 40"),
        ({"part_budgets": []}, r"^part_budgets: found \[\], expected different numbers from 1 to 16"),
        ({"fine_group": "bags"}, "found 'bags', expected one of tops"),
        ({"strengths": []}, "strengths: found none"),
        ({"generator": "zoo/generator-sing"}, "no model_index.json"),
        ({"checkpoint": "CLIP"}, "no card named 'CLIP'"),
        ({"recipe": "P3"}, "recipe: found 'P3'"),
    ],
)
def test_parameters_that_cannot_work_are_refused_before_anything_is_embedded(
    given, message, tmp_path, monkeypatch
):
    monkeypatch.setenv("SYNREAL_RUN_DIR", str(tmp_path))
    with pytest.raises(InputError, match=message):
        run_checks(**given)


def test_generated_images_of_other_classes_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("SYNREAL_RUN_DIR", str(tmp_path / "run"))
    for name in ("red", "blue"):
        (tmp_path / "drawn" / name).mkdir(parents=True)
        Image.new("RGB", (16, 16), name).save(tmp_path / "drawn" / name / "1.png")
    with pytest.raises(InputError, match=r"synthetic_set: .* not among the image set's \['blue', 'red'\]"):
        run_checks(synthetic_set=str(tmp_path / "drawn"))
    assert run_checks()["sizes_of"] == {"all classes": [10, 40], "tops": [16]}
