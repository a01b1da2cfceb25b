"""What chapter 03_realtune computes, records and shows: on made predictions, and on a tiny checkpoint."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from datasets import Dataset
from PIL import Image

from synreal.book import realtune as chapter
from synreal.book import realtune_views as views
from synreal.book.claims import load_claims, paper_table
from synreal.book.realtune_study import Setup
from synreal.book.study import Study, read_results
from synreal.data.hierarchy import SCENES_HIERARCHY
from synreal.data.scenes import factor_table, scene_set
from synreal.data.sprites import CLASS_NAMES
from synreal.data.worlds import World, open_world
from synreal.errors import InputError
from synreal.evaluate import Predictions
from synreal.evaluate.repeated import Repeated
from synreal.models import small
from synreal.models.load import build_module, save_checkpoint
from synreal.models.predictions import examine
from synreal.synbench.rare import RARE, Rare, rare_images
from synreal.train.tuning import examine_path, tune_all
from synreal.zoo import scenes_card

ROLES = ["ViT-Real-1k", "ViT-Syn-1k"]
PAIR = {"ViT-Real vs ViT-Syn (equal data)": tuple(ROLES)}


def answers(rate, seed=0, n=400, labels=None, ids=None):
    """Predictions that are right on the share `rate` of the images, at random."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 10 if labels is None else np.asarray(labels)
    ids = np.array([f"i{row:04d}" for row in range(n)]) if ids is None else np.asarray(ids, str)
    guesses = np.where(rng.random(len(labels)) < rate, labels, (labels + 1) % 10)
    logits = np.eye(10, dtype=np.float32)[guesses]
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
    run = Predictions(run.ids, run.labels, logits, CLASS_NAMES, "m", "h", "p", "test")
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


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.setenv("SYNREAL_RUN_DIR", str(tmp_path))
    return Study("03_realtune", "quick")


@pytest.fixture(scope="module")
def world():
    images = scene_set("val", 400)
    return World("scenes/val", images, SCENES_HIERARCHY, factor_table(images))


@pytest.fixture(scope="module")
def models(world):
    """The real ViT falls from 0.8 to 0.7 by RealTune, the synthetic one rises from 0.4 to 0.6."""
    truth = {"labels": world.images["label"][:], "ids": world.images["id"][:]}
    rates = {("ViT-Real-1k", "SynTune"): 0.75, ("ViT-Real-1k", "RealTune"): 0.7,
             ("ViT-Syn-1k", "SynTune"): 0.4, ("ViT-Syn-1k", "RealTune"): 0.6}  # fmt: skip
    tuned = {
        chapter.named(*who): [answers(rate, seed, **truth) for seed in range(3)]
        for who, rate in rates.items()
    }
    vanilla = {"ViT-Real-1k": 0.8, "ViT-Syn-1k": 0.4}
    once = {chapter.named(role, "Vanilla"): [answers(rate, 9, **truth)] for role, rate in vanilla.items()}
    return once | tuned


@pytest.fixture
def recorder(study, world, models):
    return chapter.recorder_of(study, models, world, draws=100, seed=0)


def test_gains_gaps_and_factors_are_recorded_as_the_ledger_names_them(study, recorder):
    settings, gaps = chapter.record_settings(recorder, ROLES), chapter.record_pairs(recorder, PAIR)
    found = read_results(study.folder).set_index(["metric", "model"])["value"]
    assert found["accuracy_gain", "ViT-Syn (RealTune)"] == pytest.approx(0.2, abs=0.05)
    assert found["accuracy_gain", "ViT-Real (RealTune)"] == pytest.approx(-0.1, abs=0.05)
    pair = next(iter(PAIR))
    before, after = found["accuracy_gap/Vanilla", pair], found["accuracy_gap/RealTune", pair]
    assert found["accuracy_gap_change", pair] == pytest.approx(after - before) and after < before
    named = {(c.effect.metric, c.effect.model) for claim in load_claims() for c in claim.conditions
             if claim.id.startswith("P1-4.") and c.effect.study == "03_realtune"}  # fmt: skip
    assert len({key for key in named if key in found.index}) >= 5
    table = views.table_of_settings(settings)
    assert table.index.tolist() == ROLES and table.loc["ViT-Syn-1k", "gain, RealTune"].startswith("+0.")
    beside = views.beside_paper(settings, gaps, PAIR)["P1"]
    assert beside["gain of ViT-Syn-1k, RealTune"].endswith("(ViT-Syn-1M)")
    assert beside["CLIP-Syn on darker, change"] == "+0.160"  # -2.4 - (-18.4)
    assert "intervals lie above 0" in views.alt_text(views.select(gaps, "accuracy_gap_change"))


def test_an_interval_from_too_few_images_is_not_given(study, world, models):
    few = pd.DataFrame({"darker": np.arange(400) < 5}, pd.Index(world.images["id"][:], name="id"))
    recorder = chapter.recorder_of(study, models, replace(world, factors=few), draws=20, seed=0)
    table = chapter.record_settings(recorder, ROLES).set_index(["metric", "model"])
    rare = table.loc[("factor/darker", "ViT-Syn-1k (Vanilla)")]
    assert rare["n"] == 5 and np.isnan(rare["ci_low"]) and rare["note"] == "too few images (5 < 10)"


def test_figures_have_a_dot_for_everything(recorder):
    settings = chapter.record_settings(recorder, ROLES)
    gains = views.select(settings, "accuracy_gain")
    figure = views.by_setting(gains[gains["role"].isin(ROLES)], "role", "gain")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["SynTune", "RealTune"]
    gaps = views.select(chapter.record_pairs(recorder, PAIR), *(f"accuracy_gap/{w}" for w in chapter.WHEN))
    assert len(views.by_when(gaps, "gap").legends[0].get_texts()) == 3


def test_rare_minus_random_is_taken_factor_by_factor(study, world, models):
    truth = {"labels": world.images["label"][:], "ids": world.images["id"][:]}
    runs = {f"ViT-Syn-1k, rare {factor}": [answers(0.5, s, **truth) for s in range(2)] for factor in RARE}
    runs |= {"ViT-Syn-1k, random": [answers(0.7, s, **truth) for s in range(2)]}
    table = chapter.record_rare(chapter.recorder_of(study, runs, world, 50, 0), ["ViT-Syn-1k"])
    overall = table.set_index("metric").loc["rare_accuracy_gain"]
    assert overall["ci_high"] < 0 and overall["model"] == "ViT-Syn" and len(table) == len(RARE) + 1
    assert len(views.by_factor(table, "x").axes) == 1


def test_the_pattern_of_p1_needs_both_signs():
    rows = pd.DataFrame(
        [("ViT-Real-1k, full", -0.1, -0.2, -0.01), ("ViT-Syn-1k, full", 0.1, 0.05, 0.2),
         ("ViT-Real-1k, head", 0.1, 0.05, 0.2), ("ViT-Syn-1k, head", 0.1, 0.05, 0.2),
         ("ViT-Real-1k, lora", 0.0, -0.1, 0.1), ("ViT-Syn-1k, lora", 0.1, 0.05, 0.2)],
        columns=["model", "value", "ci_low", "ci_high"],
    )  # fmt: skip
    assert views.pattern_of_p1(rows)["P1's pattern"].to_dict() == {
        "full": "yes", "head": "no", "lora": "undecided",
    }  # fmt: skip


def test_two_checkpoints_of_a_kind_have_no_common_effect():
    assert chapter.contrasts(["ViT-Syn-1k"], "9 images", "3 images") == {
        "ViT-Syn": ("ViT-Syn-1k, 9 images", "ViT-Syn-1k, 3 images")
    }
    with pytest.raises(InputError, match="ViT-Syn-1k, ViT-Syn-2k; expected one checkpoint of each kind"):
        chapter.contrasts(["ViT-Syn-1k", "ViT-Syn-2k"], "a", "b")


def test_rare_images_come_from_the_end_of_each_class(world):
    values = pd.Series(np.arange(400.0), world.images["id"][:])
    chosen = rare_images(world.images, values, Rare("brightness", high=True), 50, seed=1)
    assert np.bincount(chosen["label"][:]).tolist() == [5] * 10
    assert values[chosen["id"][:]].min() >= 300  # the upper tenth of each class, of which half is drawn
    other = rare_images(world.images, values, Rare("brightness", high=True), 50, seed=2)
    assert set(chosen["id"][:]) != set(other["id"][:])


def test_an_empty_rare_bin_is_named(world):
    nobody = pd.Series(0.0, world.images["id"][:])
    with pytest.raises(
        InputError, match="class t-shirt has 0 at the rare end of person blocking, expected 2"
    ):
        rare_images(world.images, nobody, Rare("person blocking", high=True), 20)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    card = scenes_card(
        name="ViT-Syn-1k", role="ViT-Syn-1k", library="timm", architecture=small.VIT_32, activation="gelu",
        head="linear",
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("zoo") / "ViT-Syn-1k"
    save_checkpoint(folder, build_module(card), card)
    return str(folder)


def test_a_tuning_is_trained_once_and_its_path_begins_at_the_checkpoint(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setenv("SYNREAL_CACHE", str(tmp_path))
    world, pool = open_world("scenes/val", 60), scene_set("train", 60)
    setup = Setup({"ViT-Syn-1k": checkpoint}, pool, pool, images=40, steps=2, seeds=2)
    assert {t.recipe.steps for t in setup.sizes("ViT-Syn-1k", [20, 40], steps=7)} == {7}
    tunings = setup.sizes("ViT-Syn-1k", [20, 40])
    [first] = tune_all(tunings, [world])
    assert {name: len(runs) for name, runs in first.items()} == {
        "ViT-Syn-1k, 20 images": 2, "ViT-Syn-1k, 40 images": 2,
    }  # fmt: skip
    assert len({run.model_hash for runs in first.values() for run in runs}) == 4
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.safetensors")}
    [again] = tune_all(setup.methods("ViT-Syn-1k", ["full"]), [world])  # the 40 images, by another name
    assert before == {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.safetensors")}
    expected = first["ViT-Syn-1k, 40 images"][0].logits
    assert np.array_equal(again["ViT-Syn-1k, full"][0].logits, expected)
    [path] = examine_path(setup.methods("ViT-Syn-1k", ["full"]), [1.0], [world])
    np.testing.assert_allclose(path["ViT-Syn-1k, full, alpha 1"][0].logits, expected, atol=1e-6)


def test_what_is_kept_back_of_a_folder_holds_every_class(tmp_path):
    for name in ("bag", "coat", "dress"):
        (tmp_path / name).mkdir()
        for number in range(20):
            Image.new("RGB", (8, 8), (number, len(name), 0)).save(tmp_path / name / f"{number}.png")
    for part in chapter.kept_back(open_world(str(tmp_path), hierarchy="none")):
        images = part if isinstance(part, Dataset) else part.images
        assert set(images["label"]) == {0, 1, 2}
    scenes = open_world("scenes/val", 50)
    assert chapter.kept_back(scenes)[0]["id"][:] == scenes.images["id"][:40]  # these come in mixed order


def test_the_path_of_a_zero_shot_clip_begins_at_its_answers(tmp_path, monkeypatch):
    monkeypatch.setenv("SYNREAL_CACHE", str(tmp_path))
    world = open_world("scenes/test", 60)
    setup = Setup({"CLIP-Real": "CLIP-Real-3k"}, scene_set("train", 20), world.images, 20, steps=2, seeds=1)
    [tuning] = setup.methods("CLIP-Real", ["full"])
    [tuned] = tune_all([tuning], [world])
    [path] = examine_path([tuning], [0.0, 1.0], [world])
    zero_shot = examine("CLIP-Real-3k", world).logits
    np.testing.assert_allclose(path["CLIP-Real, full, alpha 0"][0].logits, zero_shot, atol=1e-3)
    np.testing.assert_allclose(
        path["CLIP-Real, full, alpha 1"][0].logits, tuned["CLIP-Real, full"][0].logits, atol=1e-5
    )


def test_the_papers_numbers_of_this_section_agree_with_each_other():
    gains = paper_table("P1", "fig6_gains").set_index("model")["gain"]
    before = paper_table("P1", "table1").set_index("model")["accuracy"]
    gaps = paper_table("P1", "fig6_gaps")
    assert gaps["gap"][0] == pytest.approx(before["CLIP-Real-371M"] - before["CLIP-Syn-371M"])
    lead = -gaps["gap"][3]  # of ViT-Syn-2M over ViT-Real-0.25M: the entry on this contradiction
    assert before["ViT-Syn-2M"] + gains["ViT-Syn-2M"] - lead > before["ViT-Real-0.25M"]
