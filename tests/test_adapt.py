"""Adapting a CLIP: what is tuned, on which images, how it is probed, and what the command writes."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import concatenate_datasets
from torch import nn
from typer.testing import CliRunner

from synreal.book.tuning_report import adapt_report, cleaned, open_images
from synreal.cli import app
from synreal.data.imageset import class_names
from synreal.data.scenes import scene_set
from synreal.data.tasks import Task, of_classes
from synreal.errors import InputError
from synreal.models.load import load_classifier
from synreal.train.adapt import (
    CONTRACT,
    P2,
    SCENES,
    Adaptation,
    AdaptationRun,
    adapt,
    adapt_and_predict,
    adaptation_named,
    freeze_batch_norm,
    linear_probe,
    mixture,
    predict_task,
    targeted,
)
from synreal.train.recipes import Preset, Recipe

CLIP = "CLIP-Real-3k"
BRIEF = Adaptation(
    Preset(replace(SCENES.tuning.recipe, batch_size=8, learning_rate=1e-3), 1),
    replace(SCENES.probe, epochs=20),
    least_steps=2,
    most_steps=3,
)


@pytest.fixture(scope="module")
def scenes():
    return scene_set("upstream", 60)


@pytest.fixture(scope="module")
def task():
    return Task("few", scene_set("train", 40), scene_set("val", 20), scene_set("test", 30))


def test_p2_settings_give_its_steps():
    recipe = P2.tuning_of(51_200, seed=3)
    assert (recipe.steps, recipe.learning_rate, recipe.seed) == (30 * 100, 1e-5, 3)
    assert P2.probe_of(2_560, 0).steps == 200 * 10
    assert adaptation_named("P2 ImageNet").tuning_of(51_200, 0).steps == 1000
    with pytest.raises(InputError, match="recipe: found 'P3', expected one of P2, P2 ImageNet, scenes"):
        adaptation_named("P3")


def test_steps_stay_within_their_bounds():
    steps = [SCENES.tuning_of(count, 0).steps for count in (40, 640, 4000)]
    assert steps == [SCENES.least_steps, 20, SCENES.most_steps]


def test_budgets_are_nested_and_balanced(scenes):
    small, large = (targeted(scenes, budget, seed=1) for budget in (20, 40))
    assert set(small["id"]) < set(large["id"])
    assert np.bincount(small["label"][:], minlength=10).max() <= 3
    assert set(targeted(scenes, 20, seed=2)["id"]) != set(small["id"])
    with pytest.raises(InputError, match="found 61, expected 1 to the 60 retrieved images of tops that"):
        targeted(scenes, 61, what="retrieved images of tops")


def test_a_mixture_holds_half_of_each(scenes):
    other = scene_set("train", 30)
    mixed = mixture([scenes, other], 21)
    origin = [key.split("-")[0] for key in mixed["id"]]
    assert (origin.count("upstream"), origin.count("train")) == (10, 11)
    with pytest.raises(InputError, match="other classes"):
        mixture([scenes, of_classes(other, ["coat", "bag"])], 4)


def test_zero_steps_leave_the_zero_shot_answers(scenes):
    pixels = np.stack([np.asarray(image) for image in scenes.select(range(8))["image"]])
    names = ["coat", "shirt"]
    unadapted = adapt(CLIP, of_classes(scenes, names), Recipe(0))
    expected = load_classifier(CLIP, names).logits(pixels)
    assert unadapted.class_names == names
    torch.testing.assert_close(unadapted.logits(pixels), expected, atol=1e-4, rtol=1e-4)


def test_all_but_batch_norm_is_tuned(scenes):
    before = adapt(CLIP, scenes, Recipe(0)).module
    after = adapt(CLIP, scenes, BRIEF.tuning_of(len(scenes), 0)).module
    norms = {
        f"{name}.{key}"
        for name, part in after.named_modules()
        if isinstance(part, nn.BatchNorm2d)
        for key in part.state_dict()
    }
    moved = {
        key for key, weight in after.state_dict().items() if not torch.equal(weight, before.state_dict()[key])
    }
    assert norms and not norms & moved
    assert {"head.weight", "head.bias"} < moved and any(key.startswith("visual") for key in moved)


def test_freezing_leaves_other_layers_alone():
    layers = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    freeze_batch_norm(layers)
    assert [weight.requires_grad for weight in layers.parameters()] == [True, True, False, False]


def test_a_probe_finds_what_can_be_separated():
    rng = torch.Generator().manual_seed(0)
    labels = torch.arange(90) % 3
    features = 5 * torch.eye(3)[labels] + 0.1 * torch.rand(90, 3, generator=rng)
    probe = linear_probe(features, labels, 3, Recipe(60, 90, 1e-1, weight_decay=0.0, warmup_steps=0))
    again = linear_probe(3 * features, labels, 3, Recipe(60, 90, 1e-1, weight_decay=0.0, warmup_steps=0))
    assert (probe(features).argmax(dim=1) == labels).all()
    torch.testing.assert_close(probe.weight, again.weight)  # only the direction of features counts


def test_nothing_is_trained_twice(scenes, task, tmp_path, monkeypatch):
    monkeypatch.setenv("SYNREAL_CACHE", str(tmp_path))
    run = AdaptationRun("retrieved", scenes, (task,))
    first = adapt_and_predict(CLIP, run, BRIEF)
    monkeypatch.setattr("synreal.train.adapt.adapt", lambda *_: pytest.fail("trained again"))
    again = adapt_and_predict(CLIP, run, BRIEF)
    for protocol, found in first[0].predictions.items():
        assert (found.logits == again[0].predictions[protocol].logits).all() and found.model == "retrieved 60"
    with pytest.raises(pytest.fail.Exception, match="trained again"):
        adapt_and_predict(CLIP, replace(run, seed=1), BRIEF)


def test_settings_chosen_on_the_reported_images_are_refused(scenes, task):
    chosen = replace(BRIEF, chosen_on="scenes/test")
    named, seen = (replace(task, reported=f"scenes/{split}") for split in ("test", "upstream"))
    with pytest.raises(InputError, match="settings were chosen on scenes/test"):
        adapt_and_predict(CLIP, AdaptationRun("retrieved", scenes, (named,)), chosen)
    with pytest.raises(InputError, match="learned from scenes/upstream"):
        adapt_and_predict(CLIP, AdaptationRun("retrieved", scenes, (seen,)), BRIEF)


def test_without_adaptation_the_budget_is_zero(scenes, task, tmp_path, monkeypatch):
    monkeypatch.setenv("SYNREAL_CACHE", str(tmp_path))
    found = adapt_and_predict(CLIP, AdaptationRun("unadapted", scenes, (task,), adapted=False), BRIEF)[0]
    classifier = load_classifier(CLIP)
    pixels = np.stack([np.asarray(image) for image in task.test["image"]])
    logits = found.predictions["zero-shot"].logits
    assert found.budget == 0
    assert (logits.argmax(axis=1) == classifier.logits(pixels).argmax(dim=1).numpy()).all()


def test_a_task_of_other_classes_is_refused(scenes, task):
    with pytest.raises(InputError, match="task few: its classes are"):
        predict_task(adapt(CLIP, of_classes(scenes, ["coat", "bag"]), Recipe(0)), task, BRIEF)


def test_the_report_is_of_before_and_after(scenes, task, tmp_path):
    page = adapt_report(CLIP, scenes, task.test, task.train, tmp_path, BRIEF, seed=0)
    rows = json.loads((tmp_path / "accuracy.json").read_text())["accuracies"]
    assert [(row["adaptation"], row["protocol"]) for row in rows] == [
        (when, protocol) for when in ("before", "after") for protocol in ("zero-shot", "probe")
    ]
    assert all(row["ci_low"] <= row["accuracy"] <= row["ci_high"] and row["n"] == 30 for row in rows)
    assert page.read_text().count("| zero-shot ") == 2 and not (tmp_path / "work").exists()
    assert load_classifier(tmp_path / "checkpoint").class_names == class_names(scenes)


def test_a_test_image_among_those_learned_from_is_refused(scenes, task, tmp_path):
    with pytest.raises(InputError, match="test images"):
        adapt_report(CLIP, task.test, task.test, task.train, tmp_path, BRIEF, seed=0)
    assert not list(tmp_path.iterdir())


def test_images_too_close_to_the_test_images_are_left_out_and_listed(scenes, task, tmp_path):
    leaked = scenes.select_columns(CONTRACT)
    copies = task.test.select(range(2)).select_columns(CONTRACT)
    drawn = concatenate_datasets([leaked, copies])
    images, probe = cleaned({"images": drawn, "probe": leaked}, task.test, CLIP, 1.0, tmp_path)
    assert images["id"][:] == probe["id"][:] == scenes["id"][:]
    rejected = pd.read_csv(tmp_path / "rejected.csv")
    assert rejected["id"].tolist() == copies["id"][:] and set(rejected["set"]) == {"images"}
    assert set(rejected["reason"]) == {"same pixels as"}
    fewer = cleaned({"images": leaked}, task.test, CLIP, 0.9, tmp_path)[0]
    assert 0 < len(fewer) < len(leaked)
    assert set(pd.read_csv(tmp_path / "rejected.csv")["reason"]) == {"close to"}


@pytest.mark.parametrize(
    ("threshold", "message"),
    [(0.01, "contamination: 0.01 rejects every image of images"), (2.0, "contamination: found 2.0")],
)
def test_thresholds_that_leave_nothing_are_refused(scenes, task, threshold, message, tmp_path):
    with pytest.raises(InputError, match=message):
        cleaned({"images": scenes}, task.test, CLIP, threshold, tmp_path)


def test_the_command_names_what_is_wrong(tmp_path):
    classes = tmp_path / "classes.yaml"
    classes.write_text("[coat, hat]\n")
    options = ["--checkpoint", CLIP, "--images", "scenes/train", "--test", "scenes/test"]
    result = CliRunner().invoke(app, ["adapt", *options, "--classes", str(classes), "--out", str(tmp_path)])
    assert isinstance(result.exception, InputError) and "['hat'] are not among" in str(result.exception)


def test_scenes_are_taken_of_the_classes_alone():
    assert set(open_images("scenes/val", ["coat", "bag"], 30)["label"]) == {0, 1}
