"""Chapter 05_text_realtune: the study with the paper's settings on a tiny GPT-2, and what it records."""

from dataclasses import replace

import datasets
import numpy as np
import pandas as pd
import pytest
from transformers import GPT2Config

from synreal.book import text_views as views
from synreal.book.claims import load_claims
from synreal.book.study import Study, read_results
from synreal.book.text import CONTRASTS, record_losses, record_texts
from synreal.errors import InputError
from synreal.text.gpt2 import gpt2_config, learn_text_tokenizer, load_gpt2, new_gpt2
from synreal.text.measures import (
    compare,
    compare_texts,
    coverage,
    measure_texts,
    same_amount,
    sweep,
    words_of,
)
from synreal.text.train import (  # fmt: skip
    BOTH,
    MIX,
    REAL,
    SEEN,
    SYN,
    Plan,
    Sets,
    model_names,
    run_study,
    some_of,
    training_text,
    unseen,
)
from synreal.train.recipes import Recipe

WORDS = [
    "ash", "birch", "cedar", "elm", "fir", "hazel", "holly", "larch", "maple", "oak", "pine", "rowan",
]  # fmt: skip


def made_texts(count, seed, words=WORDS):
    rng = np.random.default_rng(seed)
    texts = [f"{' '.join(rng.choice(words, rng.integers(3, 12)))}." for _ in range(count)]
    names = [f"{seed}-{i}" for i in range(count)]
    clusters = [f"{seed}/{i // 4}" for i in range(count)]
    return datasets.Dataset.from_dict({"text": texts, "id": names, "cluster": clusters, "source": names})


@pytest.fixture(scope="module")
def sets():
    return Sets(made_texts(60, 0), made_texts(60, 1, WORDS[:5]), made_texts(12, 2), made_texts(48, 3))


@pytest.fixture(scope="module")
def tokenizer(sets):
    return learn_text_tokenizer(sets.real["text"], 290)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tokenizer):
    """A folder as GPT-2's own: config, tokenizer and weights, but tiny."""
    path = tmp_path_factory.mktemp("gpt2")
    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32}
    new_gpt2(GPT2Config(vocab_size=len(tokenizer), **sizes), 0).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def plan(folder):
    """The paper's recipe, but for the numbers of steps and texts; bf16 as there."""
    pretraining = Recipe(12, 4, 1e-2, warmup_steps=1, precision="bf16")
    return Plan(str(folder), 16, 20, 4, pretraining, replace(pretraining, steps=4), seeds=(0, 1), looks=2)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def trained(plan, sets, tokenizer, work):
    return run_study(plan, sets, tokenizer, work)


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.setenv("SYNREAL_RUN_DIR", str(tmp_path))
    return Study("05_text_realtune", "quick")


def test_real_and_synthetic_text_are_equal_in_amount(plan, sets, tokenizer):
    rows = training_text(plan, sets, tokenizer, 0)
    assert len(rows[REAL]) == len(rows[SYN]) == len(rows[MIX]) > len(rows["RealTune"]) == len(rows["SynTune"])
    assert len(rows[BOTH]) == len(rows[SYN]) + len(rows["RealTune"])
    assert (rows[SEEN] == rows[REAL][: len(rows["RealTune"])]).all()
    other = training_text(plan, sets, tokenizer, 1)
    assert rows[REAL].shape != other[REAL].shape or (rows[REAL] != other[REAL]).any()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"seeds": ()}, r"seeds: found \[\], expected two or more different ones"),
        ({"seeds": (1, 1)}, r"seeds: found \[1, 1\]"),
        ({"context": 33}, "context: found 33, expected 1 to the 32 positions of "),
        ({"method": "flyp"}, "method: found 'flyp', expected full, head, lp-ft, wise-ft or lora"),
        ({"method": "lora"}, "method lora: the head of this network is its embedding"),
    ],
)
def test_a_plan_that_cannot_be_carried_out_is_refused_before_any_training(
    plan, sets, tokenizer, tmp_path, change, reason
):
    with pytest.raises(InputError, match=reason):
        run_study(replace(plan, **change), sets, tokenizer, tmp_path / "work")
    assert not (tmp_path / "work").exists()


def test_too_little_test_text_is_refused_before_any_training(plan, sets, tokenizer, tmp_path):
    with pytest.raises(InputError, match="test text: found 3 clusters, expected 10 or more"):
        run_study(plan, replace(sets, test=sets.test.select(range(12))), tokenizer, tmp_path / "work")
    assert not (tmp_path / "work").exists()


def test_another_tokenizer_of_the_same_size_is_refused(folder, tokenizer):
    other = learn_text_tokenizer(["quite other words than those before, so that other pairs are joined"], 290)
    assert gpt2_config(str(folder), tokenizer)
    with pytest.raises(InputError, match="tokenizer: it has another vocabulary than that in "):
        gpt2_config(str(folder), other)


def test_texts_of_the_comparison_were_never_trained_on(plan, sets):
    used = np.random.default_rng(0).permutation(60)[:24]
    rest = unseen(plan, sets.real, 30, "real")
    assert len(rest) == 30 and not set(rest["id"]) & {f"0-{i}" for i in used}
    with pytest.raises(InputError, match="real: found 60 texts, expected 74 different ones"):
        unseen(plan, sets.real, 50, "real")


def test_text_to_judge_with_is_refused_for_training(plan, sets, tokenizer, work):
    long = "a sentence that is long enough to be known again wherever it may turn up one day"
    tuning = sets.real.add_item({"text": long, "id": "x", "cluster": "x", "source": "x"})
    test = sets.test.add_item({"text": f"Once, {long}.", "id": "y", "cluster": "y", "source": "y"})
    with pytest.raises(InputError, match="the real text and the test text: 1 texts"):
        run_study(plan, replace(sets, real=tuning, test=test), tokenizer, work)
    with pytest.raises(InputError, match="the validation text and the test text: .* texts"):
        run_study(plan, replace(sets, validation=sets.test), tokenizer, work)


def test_every_model_is_scored_for_every_seed(trained, plan, sets):
    assert list(trained.losses) == model_names()
    assert all(len(by_seed) == len(plan.seeds) for by_seed in trained.losses.values())
    table = trained.losses[REAL][0]
    assert table["texts"].sum() == 48 and len(table) == 12
    steps = trained.curves.groupby(["model", "seed"])["step"].agg(list)
    assert set(map(tuple, steps)) == {(0, 2, 4)} and len(steps) == 2 * 6


def test_a_second_run_trains_nothing(trained, plan, sets, tokenizer, work):
    before = {file: file.stat().st_mtime_ns for file in work.rglob("*") if file.is_file()}
    again = run_study(plan, sets, tokenizer, work)
    assert {file: file.stat().st_mtime_ns for file in work.rglob("*") if file.is_file()} == before
    pd.testing.assert_frame_equal(again.curves, trained.curves)


def test_models_learn_and_tuning_changes_them(trained):
    mean = {name: np.mean([t["nats"].sum() / t["tokens"].sum() for t in by_seed])
            for name, by_seed in trained.losses.items()}  # fmt: skip
    assert max(mean.values()) < np.log(290) and len(set(mean.values())) == len(mean)
    folders = trained.folders
    assert load_gpt2(folders[REAL][0]).config.n_embd == 16
    assert len({folder for by_seed in folders.values() for folder in by_seed}) == 2 * len(folders)


def test_what_is_recorded_carries_intervals_n_and_the_ledgers_names(study, trained):
    alone, effects = record_losses(study, trained, "test", draws=200, seed=0)
    rows = read_results(study.folder)
    assert len(rows) == len(alone) + len(effects) == 3 * len(model_names()) + 6 + len(CONTRASTS)
    assert (rows["n"] == 48).all() and rows["ci_low"].notna().all()
    wanted = {
        (c.effect.metric, c.effect.model)
        for claim in load_claims()
        if claim.chapter == study.name
        for c in claim.conditions
    }
    assert len(wanted) == 6 and wanted <= set(zip(rows["metric"], rows["model"], strict=True))
    loss = alone[alone["metric"] == "loss"].set_index("model")["value"]
    change = effects.set_index("model").loc[f"{SYN} (RealTune)", "value"]
    assert change == pytest.approx(loss[f"{SYN} (RealTune)"] - loss[SYN], abs=1e-5)


def test_tables_and_figures(study, trained):
    alone, effects = record_losses(study, trained, "test", draws=100, seed=0)
    table = views.table4(alone)
    assert list(table.index) == [REAL, SYN, MIX] and list(table) == ["vanilla", "SynTune", "RealTune"]
    assert table.loc[MIX, "SynTune"] == "" and " to " in table.loc[SYN, "RealTune"]
    paper = views.beside_paper(alone)
    assert paper.loc[f"{SYN} (RealTune)", "paper"] == "3.59"
    assert paper.loc[SYN, f"paper, less {REAL}"] == "1.51" and paper.loc[REAL, f"here, less {REAL}"] == "0.00"
    assert len(views.effects_table(effects, "loss_gap")) == len(CONTRASTS)
    assert len(views.losses_figure(alone).axes) == 1 and REAL in views.losses_alt(alone)
    assert len(views.curves_figure(trained.curves).axes[0].lines) == 6 + 1  # and the line of no change
    assert f"{SYN} (RealTune) at " in views.curves_alt(trained.curves)


def test_measures_on_texts_whose_values_are_known():
    texts = words_of(["The cat, the cat!", "A dog 7."])
    assert texts == [["the", "cat", "the", "cat"], ["a", "dog"]]
    found = measure_texts(texts, words_of(["the a"]))
    ratio = {name: part[:, 0].sum() / part[:, 1].sum() for name, part in found.items()}
    assert ratio["length"] == 3 and ratio["tail mass"] == pytest.approx(3 / 6)
    assert ratio["distinct words"] == pytest.approx(4 / 6) and ratio["distinct trigrams"] == 1
    assert ratio["repetition"] == pytest.approx(1 / 4)  # "the cat" twice, among four pairs
    assert coverage(texts, words_of(["the cat sat", "a cow"])).sum(0).tolist() == [3, 5]


def test_sets_are_compared_at_the_same_amount_of_words():
    first, second = same_amount([["a"] * 4] * 10, [["b"] * 3] * 5)
    assert len(first) == 4 and len(second) == 5


def test_a_known_difference_is_found_and_none_is_not():
    rng = np.random.default_rng(0)
    part = np.stack([rng.poisson(5, 200), np.full(200, 10)], 1).astype(float)
    table = compare({"tail mass": part}, {"tail mass": part * [0.5, 1]}, draws=500).set_index("statistic")
    assert table.loc["ratio", "value"] == pytest.approx(0.5) and table.loc["ratio", "ci_high"] < 0.6
    same = compare({"tail mass": part}, {"tail mass": part[::-1]}, draws=500).set_index("statistic")
    assert same.loc["difference", "ci_low"] < 0 < same.loc["difference", "ci_high"]


def test_narrow_text_is_recorded_as_narrow(study, sets, trained, tokenizer):
    judge = load_gpt2(trained.folders[REAL][0])
    found = compare_texts(sets.real, sets.synthetic, sets.test, judge, tokenizer, 16, draws=200)
    recorded = record_texts(study, found, "synthetic", "made", seed=0)
    assert len(read_results(study.folder)) == len(recorded) == 4 * 7
    ratio = found[found["statistic"] == "ratio"].set_index("measure")
    assert ratio.loc["coverage", "ci_high"] < 0.6 and ratio.loc["distinct words", "ci_high"] < 1
    assert "Below real text: coverage of synthetic" in views.texts_alt(recorded)
    assert len(views.texts_figure(recorded).axes) >= 7
    assert list(views.texts_table(found)) == ["real", "synthetic", "synthetic to real"]


def test_a_sweep_draws_each_temperature_once(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("SYNREAL_CACHE", str(tmp_path))
    drawn = sweep(folder, ["ash birch", "elm fir"], [0.5, 1.0], 0.95, seed=0)
    assert list(drawn) == ["T = 0.5", "T = 1"] and set(drawn["T = 1"]["temperature"]) == {1.0}
    kept = list((tmp_path / "texts").iterdir())
    assert len(kept) == 2 and sweep(folder, ["ash birch", "elm fir"], [0.5], 0.95, 0).keys() == {"T = 0.5"}


def test_some_of_a_set_keeps_its_order(sets):
    some = some_of(sets.test, 10, seed=0)
    order = [int(name.partition("-")[2]) for name in some["id"]]
    assert order == sorted(order) and len(set(order)) == 10 and len(some_of(sets.test, 99, 0)) == 48
