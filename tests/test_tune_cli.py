"""`synreal tune`: one command from a checkpoint and images to a tuned checkpoint and its report."""

import json
import sys

import numpy as np
import pandas as pd
import pytest
from accelerate import PartialState

from synreal import cli
from synreal.data.sprites import CLASS_NAMES
from synreal.evaluate.report import BeforeAfter, forgetting
from synreal.models import load_classifier
from synreal.models.predictions import Predictions


@pytest.fixture
def tune(tiny_vit, tmp_path, monkeypatch, capsys):
    """Runs the command in this process; returns (exit status, standard output, standard error)."""
    monkeypatch.setenv("SYNREAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("synreal.cli.VALIDATION", 120)

    def run(*options):
        given = ["tune", "--checkpoint", tiny_vit, "--images", "scenes/train", "--count", "40"]
        given += ["--out", tmp_path / "out"]
        monkeypatch.setattr(
            sys, "argv", ["synreal", *map(str, given), "--steps", "4", "--warmup-steps", "1", *options]
        )
        with pytest.raises(SystemExit) as stop:
            cli.main()
        shown = capsys.readouterr()
        return stop.value.code or 0, shown.out, shown.err

    return run


def test_the_report_says_what_tuning_gave_and_took(tune, tmp_path):
    options = ["--validation", "scenes/val", "--known", "other=scenes/test", "--learning-rate", "0.01"]
    status, out, _ = tune(*options)
    folder = tmp_path / "out"
    assert (status, out.strip()) == (0, str(folder / "report.md"))
    gains = pd.read_csv(folder / "gains.csv")
    overall = gains[gains["metric"] == "accuracy"].iloc[0]
    assert overall["n"] == 120 and overall["gain"] == pytest.approx(overall["after"] - overall["before"])
    assert {"darker", "smaller"} <= set(gains.loc[gains["metric"] == "factor_accuracy", "group"])
    forgotten = pd.read_csv(folder / "forgetting.csv")
    assert set(forgotten["data"]) == {"other"}
    curve = pd.read_csv(folder / "curve.csv")
    assert curve["accuracy"].iloc[[0, -1]].tolist() == pytest.approx([overall["before"], overall["after"]])
    summary = json.loads((folder / "report.json").read_text())
    assert summary["settings"]["learning_rate"] == 0.01 and len(summary["gains"]) == len(gains)
    page = (folder / "report.md").read_text()
    for text in ("# out", "tuned_from", "## What tuning gave on scenes/val", "## What was known before"):
        assert text in page
    assert load_classifier(folder).class_names == list(CLASS_NAMES)
    assert tune(*options)[0] == 0  # the finished checkpoint is reported on again


@pytest.mark.parametrize("begun", [False, True])
def test_a_curve_on_other_validation_images_is_refused(tune, begun, tmp_path):
    assert tune("--validation", "scenes/val")[0] == 0
    if begun:
        (tmp_path / "out" / "work").mkdir()
        (tmp_path / "out" / "run.json").rename(tmp_path / "out" / "work" / "run.json")
        (tmp_path / "out" / "card.yaml").unlink()
    curve = (tmp_path / "out" / "curve.csv").read_text()
    status, _, error = tune("--validation", "scenes/test")
    assert status == 2 and "holds a run made from other inputs: validation " in error
    assert (tmp_path / "out" / "curve.csv").read_text() == curve


def test_the_main_process_alone_reports(tune, tmp_path, monkeypatch):
    assert tune("--validation", "scenes/val")[0] == 0
    (tmp_path / "out" / "report.md").unlink()
    monkeypatch.setattr(PartialState, "is_main_process", False)
    status, out, _ = tune("--validation", "scenes/val")
    assert (status, out) == (0, "") and not (tmp_path / "out" / "report.md").exists()


def test_processes_that_cannot_find_each_other_are_refused(tune, tmp_path, monkeypatch):
    """As on a machine without a GPU: each would take itself for the main one."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    status, _, error = tune()
    assert status == 2 and "WORLD_SIZE: found 2, but these processes cannot find each other" in error
    assert not (tmp_path / "out").exists()


def test_without_validation_recipe_and_losses_are_reported(tune, tmp_path):
    status, _, _ = tune("--recipe", "scenes-vit", "--method", "head", "--seed", "3")
    assert status == 0
    made = json.loads((tmp_path / "out" / "report.json").read_text())["settings"]
    assert (made["method"], made["seed"], made["batch_size"]) == ("head", 3, 32)
    assert not (tmp_path / "out" / "gains.csv").exists()
    table = pd.read_csv(tmp_path / "out" / "training.csv")
    losses = pd.read_csv(tmp_path / "out" / "losses.csv")
    assert table.to_dict("list") == losses.to_dict("list") and len(losses) == 4


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--method", "best"], "method: found 'best', expected one of full"),
        (["--recipe", "p9"], "recipe: found 'p9', expected one of p1-clip"),
        (["--known", "imagenet"], "--known imagenet: expected a name and a place"),
        (["--known", "a=one", "--known", "a=two"], "--known: the names ['a'] are taken"),
        (["--learning-rate", "-1"], "learning_rate: found -1.0, expected a number above 0"),
        (["--learning-rate", "nan"], "learning_rate: found nan, expected a number above 0"),
        (["--warmup-steps", "4"], "warmup_steps: found 4, expected 0 or more, and less than steps (4)"),
        (["--seed", "10000000000000000"], "seed: found 10000000000000000, expected 0 to 2**32 - 1"),
        (["--device", "cuda:99"], "device: found 'cuda:99', expected one that this machine has"),
        (["--device", "gpu"], "device: found 'gpu', expected one that this machine has"),
        (["--validation", "scenes/train"], "test images belong to a cluster that is in the training set"),
    ],
)
def test_bad_input_is_status_2_and_one_message(tune, options, told, tmp_path):
    status, _, error = tune(*options)
    assert status == 2 and told in error and "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_forgetting_is_as_uncertain_as_its_clusters():
    """Thirty photographs of forty images each, of which all or none are lost."""
    ids, labels = np.array([f"{row:04d}" for row in range(1200)]), np.arange(1200) % 2
    lost = np.repeat(np.arange(30) < 4, 40)
    answers = (labels, np.where(lost, 1 - labels, labels))
    made = [
        Predictions(ids, labels, np.eye(2, dtype=np.float32)[a], ("a", "b"), "m", "h", "p", "set")
        for a in answers
    ]
    photographs = pd.Series(np.repeat(np.arange(30), 40).astype(str), index=pd.Index(ids, name="id"))
    pair = {"set": BeforeAfter(*made)}
    alone, together = (forgetting(pair, {"set": clusters}).iloc[0] for clusters in (None, photographs))
    assert alone["gain"] == together["gain"] == pytest.approx(-4 / 30)
    assert together["ci_high"] - together["ci_low"] > 4 * (alone["ci_high"] - alone["ci_low"])
    assert alone["ci_high"] < -0.1 and together["ci_high"] > -0.05
