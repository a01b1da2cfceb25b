"""What chapter 4 rests on: metrics of repeated trainings, tunings kept on disk, rare images."""

from dataclasses import replace

import nbformat
import numpy as np
import pandas as pd
import pytest

from synreal.book.claims import paper_table
from synreal.data.scenes import scene_set
from synreal.data.sprites import CLASS_NAMES
from synreal.data.worlds import open_world
from synreal.errors import InputError
from synreal.evaluate import Predictions
from synreal.evaluate.repeated import Repeated
from synreal.models.predictions import examine
from synreal.paths import repository_root
from synreal.train.adapt import targeted
from synreal.train.recipes import Recipe
from synreal.train.tuning import Tuning, rarest, tune_all

BRIEF = Recipe(2, 32, 3e-4, warmup_steps=0)


def answers(rate, seed=0, n=400):
    """Predictions that are right on the share `rate` of the images, at random."""
    labels, hit = np.arange(n) % 10, np.random.default_rng(seed).random(n) < rate
    ids = np.array([f"i{row:04d}" for row in range(n)])
    logits = np.eye(10, dtype=np.float32)[np.where(hit, labels, (labels + 1) % 10)]
    return Predictions(ids, labels, logits, CLASS_NAMES, "m", "h", "p", "test")


def accuracy_of(*runs, **options):
    return Repeated.of({"m": runs}, draws=400, **options).metric("accuracy", "m")


def test_one_training_has_the_interval_of_its_images():
    found = accuracy_of(answers(0.7, n=1000))
    half = (found.ci_high - found.ci_low) / 2
    assert found.seeds == 1 and half == pytest.approx(1.96 * (0.7 * 0.3 / 1000) ** 0.5, rel=0.15)


def test_the_mean_is_over_seeds_and_their_spread_widens_the_interval():
    alike = accuracy_of(*[answers(0.7, n=1000)] * 3)
    apart = accuracy_of(answers(0.6, n=1000), answers(0.7, n=1000), answers(0.8, n=1000))
    assert apart.value == pytest.approx(alike.value, abs=0.02) and apart.seeds == 3
    spread = 4.303 * 0.1 / 3**0.5  # Student's t of two degrees of freedom times the error of the mean
    assert apart.ci_high - apart.value == pytest.approx(spread, rel=0.2)
    assert alike.ci_high - alike.ci_low < (apart.ci_high - apart.ci_low) / 4


def test_the_interval_covers_the_truth_as_often_as_it_says():
    """Models differ from seed to seed by 0.02, test sets hold 400 images; the truth is 0.7."""
    rng, hits = np.random.default_rng(0), 0
    for trial in range(40):
        runs = [answers(0.7 + rng.normal(0, 0.02), seed=1000 * trial + seed) for seed in range(3)]
        found = Repeated.of({"m": runs}, draws=50, seed=trial).metric("accuracy", "m")
        hits += found.ci_low <= 0.7 <= found.ci_high
    assert hits >= 0.93 * 40


def test_scenes_of_one_photograph_count_as_one():
    run = answers(0.7)
    photographs = pd.Series([f"c{row // 4}" for row in range(400)], run.ids)
    same = np.repeat(np.random.default_rng(0).random(100) < 0.7, 4)
    logits = np.eye(10, dtype=np.float32)[np.where(same, run.labels, (run.labels + 1) % 10)]
    run = replace(run, logits=logits)
    alone, together = accuracy_of(run), accuracy_of(run, clusters=photographs)
    ratio = (together.ci_high - together.ci_low) / (alone.ci_high - alone.ci_low)
    assert ratio == pytest.approx(2, rel=0.15)  # the square root of four


def test_a_model_trained_once_stands_beside_every_seed_and_unequal_seeds_are_refused():
    models = {"before": [answers(0.5)], "after": [answers(0.7, s) for s in (1, 2, 3)],
              "twice": [answers(0.7, s) for s in (1, 2)]}  # fmt: skip
    repeated = Repeated.of(models, draws=100)
    gain = repeated.difference("accuracy", "after", "before")
    apart = [repeated.metric("accuracy", name).value for name in ("after", "before")]
    assert gain.value == pytest.approx(apart[0] - apart[1]) and gain.ci_low > 0
    with pytest.raises(InputError, match="after 3, twice 2; expected the same number"):
        repeated.difference("accuracy", "after", "twice")


def test_answers_that_never_vary_have_no_interval():
    found = accuracy_of(answers(1.0), answers(1.0))
    assert found.value == 1 and np.isnan([found.ci_low, found.ci_high]).all()


@pytest.fixture(scope="module")
def scenes():
    return scene_set("val", 400)


def test_rare_images_come_from_the_end_of_each_class(scenes):
    values = pd.Series(np.arange(400.0), scenes["id"][:], name="brightness")
    chosen = rarest(scenes, values, 50, seed=1)
    assert np.bincount(chosen["label"][:]).tolist() == [5] * 10
    assert values[chosen["id"][:]].min() >= 300  # the upper tenth of each class, of which half is drawn
    assert set(chosen["id"][:]) != set(rarest(scenes, values, 50, seed=2)["id"][:])
    assert values[rarest(scenes, -values, 50)["id"][:]].max() < 100


def test_an_empty_rare_bin_is_named(scenes):
    nobody = pd.Series(0.0, scenes["id"][:], name="person blocking")
    with pytest.raises(
        InputError, match="class t-shirt has 0 at the rare end of person blocking, expected 2"
    ):
        rarest(scenes, nobody, 20)


def test_a_tuning_is_trained_once_and_its_path_begins_at_the_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setenv("SYNREAL_CACHE", str(tmp_path))
    world, pool = open_world("scenes/test", 60), scene_set("train", 40)
    for checkpoint in ("ViT-Syn-12k", "CLIP-Real-3k"):
        seeds = [Tuning(checkpoint, targeted(pool, 20, s), replace(BRIEF, seed=s)) for s in range(2)]
        path = {a: [replace(tuning, alpha=a) for tuning in seeds] for a in (0.0, 0.5)}
        with pytest.raises(InputError, match="alpha 0: .* is not tuned yet; tune it first"):
            tune_all(path, [world])
        [first] = tune_all({"tuned": seeds}, [world])
        assert len({run.model_hash for run in first["tuned"]}) == 2
        before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.safetensors")}
        [again] = tune_all({"tuned": seeds}, [world])
        assert before == {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.safetensors")}
        assert np.array_equal(again["tuned"][1].logits, first["tuned"][1].logits)
        [between] = tune_all(path, [world])
        untuned = examine(checkpoint, world).logits
        np.testing.assert_allclose(between[0.0][0].logits, untuned, atol=1e-3)
        assert not np.allclose(between[0.5][0].logits, untuned, atol=1e-3)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"studied": ["ViT-Syn-99k"]}, "'ViT-Syn-99k'.*: not among the classifiers of pairs"),
        ({"test_set": "scenes/train"}, "test images belong to a cluster that is in the training set"),
    ],
)
def test_bad_input_is_refused_before_anything_is_tuned(given, told, tmp_path, monkeypatch):
    """The chapter's cells up to the one that opens its data."""
    monkeypatch.setenv("SYNREAL_RUN_DIR", str(tmp_path))
    notebook = nbformat.read(repository_root() / "notebooks" / "04_realtune.ipynb", as_version=4)
    sources = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    last = next(n for n, source in enumerate(sources) if "refuse_overlap(" in source)
    with pytest.raises(InputError, match=told):
        names: dict = {}
        exec(sources[0], names)
        names |= {"tested": 200, "real_images": 200} | given
        exec("\n".join(sources[1 : last + 1]), names)


def test_the_papers_numbers_of_this_section_agree_with_each_other():
    gains = paper_table("P1", "fig6_gains").set_index("model")["gain"]
    before = paper_table("P1", "table1").set_index("model")["accuracy"]
    gaps = paper_table("P1", "fig6_gaps")
    assert gaps["gap"][0] == pytest.approx(before["CLIP-Real-371M"] - before["CLIP-Syn-371M"])
    lead = -gaps["gap"][3]  # of ViT-Syn-2M over ViT-Real-0.25M: the entry on this contradiction
    assert before["ViT-Syn-2M"] + gains["ViT-Syn-2M"] - lead > before["ViT-Real-0.25M"]
