"""Interventions on training data, the small classifier it trains, and effects over seeds and photographs."""

import numpy as np
import pytest
import torch

from synreal.data.scenes import scene_arrays
from synreal.errors import InputError
from synreal.evaluate.repeated import Effect
from synreal.evaluate.slices import COUNTERPART, MATCHING, SEVERAL, enriched_test, slice_accuracy, slice_hits
from synreal.generate.rerender import Defects
from synreal.train.experiment import small_classifier, train_small
from synreal.train.interventions import (
    SCRATCH,
    STAGES,
    Mix,
    Training,
    intervened_arrays,
    intervention_grid,
    train_interventions,
    train_mixes,
)
from synreal.train.recipes import Recipe

TINY = Recipe(steps=2, batch_size=8, learning_rate=1e-3, warmup_steps=0)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SYNREAL_CACHE", str(tmp_path))


@pytest.fixture(scope="module")
def test_set():
    return enriched_test(60, 12, split="val")


def test_only_the_defect_differs():
    images, truth = scene_arrays("train", 30, start=5)
    same, labels = intervened_arrays(Defects(), 30, start=5)
    assert np.array_equal(same, images) and np.array_equal(labels, truth["label"])
    confused, asked = intervened_arrays(Defects(confusion=1.0), 30, start=5)
    assert np.array_equal(asked, labels)  # the label stays, the picture does not
    changed = (confused != images).any(axis=(1, 2, 3))
    assert np.array_equal(changed, np.isin(labels, SEVERAL))  # a bag has nothing to be confused with


def test_grid_names_each_defect_at_each_severity():
    grid = intervention_grid(["scale", "person"], [0.5, 1.0])
    assert [d.describe() for d in grid] == ["none", "scale 0.5", "scale 1", "person 0.5", "person 1"]
    with pytest.raises(InputError, match=r"defects: found \['blur'\], expected some of confusion"):
        intervention_grid(["scale", "blur"], [1.0])
    for severities in ([], [0.0, 1.0]):
        with pytest.raises(InputError, match="0 is always trained"):
            intervention_grid(["scale"], severities)
    with pytest.raises(InputError, match="seeds: found 1, expected 2"):
        train_interventions(
            intervention_grid(["scale"], [1.0]), 20, 10, 1, np.zeros((1, 32, 32, 3), np.uint8)
        )
    with pytest.raises(InputError, match="clean: found 3, expected 10, one a class"):
        Training(Defects(), 20, 3, 0)


def test_trainings_are_kept_and_do_not_depend_on_workers(test_set, monkeypatch, tmp_path):
    grid = intervention_grid(["scale"], [1.0])
    first = train_interventions(grid, 20, 10, 2, test_set.images, TINY, workers=2)
    scratch, tuned = (first[Defects(), stage] for stage in STAGES)
    assert scratch.shape == (2, len(test_set.labels), 10)
    assert not np.array_equal(scratch, tuned)  # tuning changed something
    monkeypatch.setenv("SYNREAL_CACHE", str(tmp_path / "other"))
    again = train_interventions(grid, 20, 10, 2, test_set.images, TINY, workers=1)
    assert all(np.array_equal(first[cell], again[cell]) for cell in first)
    monkeypatch.setattr("synreal.train.interventions.train_small", None)  # would fail, were it called
    kept = train_interventions(grid, 20, 10, 2, test_set.images, TINY, workers=1)
    assert np.array_equal(kept[grid[1], "RealTune"], again[grid[1], "RealTune"])


def test_first_weights_come_from_the_seed_alone():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one, same, other = (small_classifier(10, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["head.weight"], other["head.weight"])
    assert torch.equal(before, torch.random.get_rng_state())
    with pytest.raises(InputError, match="found 3 images and 2 labels"):
        train_small(np.zeros((3, 32, 32, 3), np.uint8), np.zeros(2), 10, SCRATCH)


def test_mixes_of_one_seed_are_nested(test_set, monkeypatch):
    seen = []
    monkeypatch.setattr("synreal.train.interventions.kept", lambda f, jobs, workers: seen.extend(jobs) or [
        np.zeros((len(test_set.labels), 10), np.float32) for _ in jobs])  # fmt: skip
    pools = [(np.full((6, 32, 32, 3), kind, np.uint8), np.arange(6)) for kind in (0, 1)]
    logits = train_mixes([Mix(4, 0), Mix(2, 3)], *pools, 10, TINY, 2, test_set.images)
    assert logits.shape == (2, 2, len(test_set.labels), 10)
    (_, four, *_), _, (images, five, *_), _ = seen
    assert four[:2].tolist() == five[:2].tolist() and images[:, 0, 0, 0].tolist() == [0, 0, 1, 1, 1]
    for mix, message in ((Mix(7, 0), "found 7 real images, expected 0 to the 6"), (Mix(0, 0), "without any")):
        with pytest.raises(InputError, match=message):
            train_mixes([mix], *pools, 10, TINY, 2, test_set.images)


def test_rare_scenes_are_added_but_not_counted_as_natural(test_set, monkeypatch):
    shown = {name: test_set.factors[list(columns)].any(axis=1).to_numpy() for name, columns in
             {"scale": ("smaller", "larger"), "person": ("person_blocking",)}.items()}  # fmt: skip
    assert test_set.natural.sum() == 60
    for rows in shown.values():
        assert (rows & ~test_set.natural).sum() >= 12
    monkeypatch.setattr("synreal.evaluate.slices.SEARCHED", 100)
    with pytest.raises(
        InputError, match="rare: found 50 wanted of each factor, expected what 100 scenes hold"
    ):
        enriched_test(10, 50, split="val")


def test_slices_ask_what_they_say(test_set):
    right = np.eye(10, dtype=np.float32)[test_set.labels][None]
    for name in ("accuracy", *MATCHING.values(), *COUNTERPART.values()):
        hits, chosen = slice_hits(right, test_set, name)
        assert hits[:, chosen].min() == 1 and chosen.sum() >= 12
    confused = np.eye(10, dtype=np.float32)[[{0: 2, 2: 0}.get(c, c) for c in test_set.labels]][None]
    found = {
        name: slice_accuracy(confused, test_set, name).per_seed[0] for name in ("coarse accuracy", "accuracy")
    }
    assert found["coarse accuracy"] == 1 and found["accuracy"] == pytest.approx(0.8)
    with pytest.raises(InputError, match="found 'colour', expected one of accuracy"):
        slice_accuracy(right, test_set, "colour")


def test_effects_count_seeds_and_photographs():
    rng = np.random.default_rng(0)
    values, everything = (rng.random((3, 400)) < 0.6).astype(float), np.ones(400, bool)
    one = Effect.of(np.repeat(values[:1], 3, axis=0), everything, "one")
    found = one.estimate(np.arange(400))
    share = values[0].mean()
    assert found.value == share and one.n == 400
    half = (found.ci_high - found.ci_low) / 2
    assert half == pytest.approx(1.966 * (share * (1 - share) / 399) ** 0.5, rel=1e-3)  # seeds add nothing
    paired = Effect(np.repeat(values, 4, axis=1).mean(axis=1), np.repeat(one.influence, 4) / 4, 1600)
    wider = paired.estimate(np.repeat(np.arange(400), 4))
    assert wider.ci_high - wider.ci_low >= found.ci_high - found.ci_low  # four copies are no new photographs
    nothing = (one - one).estimate(np.arange(400))
    assert nothing.value == 0 and np.isnan(nothing.ci_low)
    with pytest.raises(InputError, match=r"seeds: found \[2, 3\]; expected the same number"):
        one - Effect.of(values[:2], everything, "two")
    with pytest.raises(InputError, match="rare: found 5 images"):
        Effect.of(values, np.arange(400) < 5, "rare")


def test_intervals_hold_what_they_promise():
    """Seeds and photographs each with their own effect on the outcome, as in a study of readers and cases."""
    rng, held = np.random.default_rng(1), 0
    for _ in range(300):
        p = 0.5 + 0.03 * rng.standard_normal((4, 1)) + 0.2 * rng.standard_normal((1, 200))
        found = Effect.of((rng.random((4, 200)) < p).astype(float), np.ones(200, bool), "x").estimate(
            np.arange(200)
        )
        held += found.ci_low <= 0.5 <= found.ci_high
    assert 0.93 <= held / 300 <= 1.0
