"""Grids of language models, with the paper's settings on a tiny GPT-2, and text metrics."""

from dataclasses import replace

import datasets
import numpy as np
import pandas as pd
import pytest
from transformers import GPT2Config

from synreal.book.parameters import book_notebooks, resolve
from synreal.errors import InputError
from synreal.text.corpora import load_texts
from synreal.text.gpt2 import equal_rows, gpt2_config, learn_text_tokenizer, load_gpt2, new_gpt2
from synreal.text.measures import (
    compare,
    compare_texts,
    coverage,
    measure_texts,
    same_amount,
    sweep,
    words_of,
)
from synreal.text.train import (
    LossEstimates,
    TextModel,
    TextSets,
    TextTraining,
    clusters_by,
    equal_texts,
    models_of,
    run_grid,
    some_of,
    unseen,
)
from synreal.train.recipes import Recipe

WORDS = [
    "ash", "birch", "cedar", "elm", "fir", "hazel", "holly", "larch", "maple", "oak", "pine", "rowan",
]  # fmt: skip
GRID = {"Real": ["SynTune", "RealTune"], "Syn": ["RealTune"], "Both": []}


def made_texts(count, seed, words=WORDS):
    rng = np.random.default_rng(seed)
    texts = [f"{' '.join(rng.choice(words, rng.integers(3, 12)))}." for _ in range(count)]
    names = [f"{seed}-{i}" for i in range(count)]
    clusters = [f"{seed}/{i // 4}" for i in range(count)]
    return datasets.Dataset.from_dict({"text": texts, "id": names, "cluster": clusters, "source": names})


@pytest.fixture(scope="module")
def sets():
    return TextSets(made_texts(60, 0), made_texts(60, 1, WORDS[:5]), made_texts(12, 2), made_texts(48, 3))


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
def training(folder):
    """The paper's recipe, but for the numbers of steps; bf16 as there."""
    recipe = Recipe(12, 4, 1e-2, warmup_steps=1, precision="bf16")
    return TextTraining(str(folder), 16, recipe, replace(recipe, steps=4), seeds=(0, 1), evaluations=2)


@pytest.fixture(scope="module")
def text_of(sets, tokenizer):
    def rows(seed):
        (real, synthetic), later = equal_texts(sets, [20, 4], tokenizer, seed)
        first = {"Real": real, "Syn": synthetic, "Both": real[:10] + synthetic[10:]}
        return equal_rows(first, 16, tokenizer) | equal_rows(
            dict(zip(("RealTune", "SynTune"), later, strict=True)), 16, tokenizer
        )

    return rows


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def trained(training, text_of, sets, tokenizer, work):
    return run_grid(training, GRID, text_of, sets, tokenizer, work)


def test_real_and_synthetic_text_are_equal_in_amount(sets, tokenizer, text_of):
    for real, synthetic in equal_texts(sets, [20, 4], tokenizer, 0):
        assert sum(map(len, real)) == sum(map(len, synthetic)) and len(real) == len(synthetic)
    rows = text_of(0)
    assert len(rows["Real"]) == len(rows["Syn"]) == len(rows["Both"])
    assert len(rows["Real"]) > len(rows["RealTune"]) == len(rows["SynTune"])
    other = text_of(1)
    assert rows["Real"].shape != other["Real"].shape or (rows["Real"] != other["Real"]).any()


def never(seed):
    raise AssertionError("text was drawn before what is wrong was refused")


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
def test_settings_that_cannot_be_carried_out_are_refused(training, sets, tokenizer, tmp_path, change, reason):
    with pytest.raises(InputError, match=reason):
        run_grid(replace(training, **change), GRID, never, sets, tokenizer, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_grid_needs_text_for_each_of_its_names(training, text_of, sets, tokenizer, tmp_path):
    with pytest.raises(InputError, match=r"grid: no text for \['LongTune'\], found text for .*'Both'"):
        run_grid(training, {"Real": ["LongTune"]}, text_of, sets, tokenizer, tmp_path)
    assert not list(tmp_path.iterdir())


def test_too_little_test_text_is_refused_before_any_training(training, sets, tokenizer, tmp_path):
    few = replace(sets, test=sets.test.select(range(12)))
    with pytest.raises(InputError, match="test text: found 3 clusters, expected 10 or more"):
        run_grid(training, GRID, never, few, tokenizer, tmp_path)


def test_another_tokenizer_of_the_same_size_is_refused(folder, tokenizer):
    other = learn_text_tokenizer(["quite other words than those before, so that other pairs are joined"], 290)
    assert gpt2_config(str(folder), tokenizer)
    with pytest.raises(InputError, match="tokenizer: it has another vocabulary than that in "):
        gpt2_config(str(folder), other)


def test_texts_of_the_comparison_were_never_trained_on(sets, tokenizer):
    tuned_on = equal_texts(sets, [20, 4], tokenizer, 0)[1][0]
    rest = unseen(sets.real, 24, 30, 0, "real")
    whole = [text.startswith(tokenizer.decode(tuned_on[0])) for text in sets.real["text"]]
    assert len(rest) == 30 and sets.real["id"][whole.index(True)] not in rest["id"][:]
    with pytest.raises(InputError, match="real: found 60 texts, expected 74 different ones"):
        unseen(sets.real, 24, 50, 0, "real")


def test_text_to_judge_with_is_refused_for_training(training, sets, tokenizer, work):
    long = "a sentence that is long enough to be known again wherever it may turn up one day"
    tuning = sets.real.add_item({"text": long, "id": "x", "cluster": "x", "source": "x"})
    test = sets.test.add_item({"text": f"Once, {long}.", "id": "y", "cluster": "y", "source": "y"})
    with pytest.raises(InputError, match="the real text and the test text: 1 texts"):
        run_grid(training, GRID, never, replace(sets, real=tuning, test=test), tokenizer, work)
    same = sets.test.remove_columns("cluster").add_column("cluster", sets.test["id"][:])
    with pytest.raises(InputError, match="the validation text and the test text: .* texts"):
        replace(sets, validation=same).check()


def test_a_cluster_may_not_lie_on_both_sides(sets):
    shared = sets.real.add_item({"text": "Other words.", "id": "z", "cluster": "3/0", "source": "z"})
    with pytest.raises(InputError, match="the real text and the test text: share 1 clusters, such as '3/0'"):
        replace(sets, real=shared).check()
    own = shared.remove_columns("cluster").add_column("cluster", shared["id"][:])
    replace(sets, real=own).check()  # of ids nothing is known


def test_every_model_is_scored_for_every_seed(trained, training):
    assert list(trained.losses) == models_of(GRID)
    assert list(map(str, trained.losses)) == [
        "Real", "Real (SynTune)", "Real (RealTune)", "Syn", "Syn (RealTune)", "Both"
    ]  # fmt: skip
    assert all(len(by_seed) == len(training.seeds) for by_seed in trained.losses.values())
    table = trained.losses[TextModel("Real")][0]
    assert table["texts"].sum() == 48 and len(table) == 12
    steps = trained.curves.groupby(["pretraining", "tuning", "seed"])["step"].agg(list)
    assert set(map(tuple, steps)) == {(0, 2, 4)} and len(steps) == 2 * 3


def test_a_second_run_trains_nothing(trained, training, text_of, sets, tokenizer, work):
    before = {file: file.stat().st_mtime_ns for file in work.rglob("*") if file.is_file()}
    again = run_grid(training, GRID, text_of, sets, tokenizer, work)
    assert {file: file.stat().st_mtime_ns for file in work.rglob("*") if file.is_file()} == before
    pd.testing.assert_frame_equal(again.curves, trained.curves)


def test_models_learn_and_tuning_changes_them(trained):
    losses = LossEstimates(trained.losses, draws=50)
    mean = {model: losses.loss(model).value for model in trained.losses}
    assert max(mean.values()) < np.log(290) and len(set(mean.values())) == len(mean)
    folders = trained.folders
    assert load_gpt2(folders[TextModel("Real")][0]).config.n_embd == 16
    assert len({folder for by_seed in folders.values() for folder in by_seed}) == 2 * len(folders)


def test_losses_are_reported_by_a_column_of_the_test_text(sets, trained):
    domains = ["poem"] * 28 + ["letter"] * 20
    test = sets.test.add_column("domain", domains)
    with pytest.raises(InputError, match="test text, domain poem: found 7 clusters, expected 10 or more"):
        clusters_by(test, "domain")
    with pytest.raises(InputError, match="test text: no column genre; found .'id', 'cluster'"):
        clusters_by(test, "genre")
    with pytest.raises(InputError, match="column genre has the value all, which names the whole"):
        clusters_by(sets.test.add_column("genre", ["all"] * 48), "genre")
    halves = sets.test.add_column("half", ["a", "b"] * 24)
    with pytest.raises(InputError, match="cluster '3/0' has several values of half, expected one"):
        clusters_by(halves, "half")
    large = datasets.concatenate_datasets([test, made_texts(80, 4).add_column("domain", ["letter"] * 80)])
    large = large.filter(lambda row: row["domain"] == "letter")
    masks = clusters_by(large, "domain")
    assert list(masks) == ["all", "letter"] and masks["letter"].sum() == 25
    assert list(clusters_by(sets.test, "")) == ["all"]
    last = np.arange(12) >= 2
    estimate = LossEstimates(trained.losses, 50, mask=last)
    expected = np.mean(
        [t["nats"][2:].sum() / t["tokens"][2:].sum() for t in trained.losses[TextModel("Syn")]]
    )
    assert estimate.texts == 40 and estimate.loss(TextModel("Syn")).value == pytest.approx(expected)


NAMES = ("real", "synthetic", "validation", "test")


@pytest.fixture
def prompted(tmp_path, monkeypatch):
    """Texts of people and of a model to the same prompts, in the files that the profile `photos` names."""
    monkeypatch.setenv("SYNREAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SYNREAL_TEXTS", str(tmp_path))
    for number, name in enumerate(NAMES):
        texts = made_texts(40, number).remove_columns(["id", "cluster", "source"])
        prompts = [f"{max(number, 1)}-{row}" for row in range(40)]  # real and synthetic share them
        columns = {"id": [f"{name}/{prompt}" for prompt in prompts], "cluster": prompts}
        columns |= {"source": [name] * 40, "domain": ["story", "review"] * 20}
        for column, values in columns.items():
            texts = texts.add_column(column, values)
        texts.to_parquet(tmp_path / f"{name}.parquet")
    return tmp_path


def read_prompted():
    chapter = "08_text_realtune"
    given = resolve([book_notebooks()[chapter]], "photos")[chapter]
    sets = TextSets(*(load_texts(given[f"{name}_set"]) for name in NAMES))
    sets.check()
    return clusters_by(sets.test, given["domain"])


def test_texts_to_the_same_prompts_are_read_by_the_profile_of_photographs(prompted):
    assert {name: mask.sum() for name, mask in read_prompted().items()} == {
        "all": 40, "story": 20, "review": 20
    }  # fmt: skip
    table = pd.read_parquet(prompted / "test.parquet")
    table.drop(columns="domain").to_parquet(prompted / "test.parquet")
    with pytest.raises(InputError, match=r"no column domain; found \['id', 'cluster', 'source'\]"):
        read_prompted()
    table.assign(cluster="1-7").to_parquet(prompted / "test.parquet")
    with pytest.raises(InputError, match="the real text and the test text: share 1 clusters, such as '1-7'"):
        read_prompted()
    table.rename(columns={"text": "body"}).to_parquet(prompted / "test.parquet")
    with pytest.raises(InputError, match=r"test.parquet: no column text; found \['body', .* \?column=NAME"):
        read_prompted()
    (prompted / "test.parquet").unlink()
    with pytest.raises(InputError, match=r"test.parquet: no such file or folder; expected austen/PART"):
        read_prompted()


def test_a_folder_of_texts_that_was_not_named(monkeypatch):
    monkeypatch.delenv("SYNREAL_TEXTS", raising=False)
    with pytest.raises(InputError, match="set the environment variable SYNREAL_TEXTS to the folder"):
        read_prompted()


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


def test_narrow_text_is_found_to_be_narrow(sets, trained, tokenizer):
    judge = load_gpt2(trained.folders[TextModel("Real")][0])
    table = compare_texts(sets.real, sets.synthetic, sets.test, judge, tokenizer, 16, draws=200)
    without = table[table["reason"] != ""]  # all words are common here
    assert len(table) == 4 * 7 and set(without["metric"]) == {"tail mass"}
    ratio = table[table["statistic"] == "ratio"].set_index("metric")
    assert ratio.loc["coverage", "ci_high"] < 0.6 and ratio.loc["distinct words", "ci_high"] < 1


def test_a_ratio_to_nothing_has_a_reason():
    real, synthetic = np.array([[0.0, 2], [0, 3]]), np.array([[1.0, 2], [0, 3]])
    table = compare({"repetition": real}, {"repetition": synthetic}, draws=50).set_index("statistic")
    assert np.isnan(table.loc["ratio", "value"]) and table.loc["ratio", "reason"] == "nothing to divide by"
    assert table.loc["synthetic", "value"] == 0.2 and table.loc["synthetic", "reason"] == ""


def test_a_sweep_draws_each_temperature_once(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("SYNREAL_CACHE", str(tmp_path))
    drawn = sweep(folder, ["ash birch", "elm fir"], [0.5, 1.0], 0.95, seed=0)
    assert list(drawn) == [0.5, 1.0] and set(drawn[1.0]["temperature"]) == {1.0}
    kept = list((tmp_path / "texts").iterdir())
    assert len(kept) == 2 and sweep(folder, ["ash birch", "elm fir"], [0.5], 0.95, 0).keys() == {0.5}


def test_some_of_a_set_keeps_its_order(sets):
    some = some_of(sets.test, 10, seed=0)
    order = [int(name.partition("-")[2]) for name in some["id"]]
    assert order == sorted(order) and len(set(order)) == 10 and len(some_of(sets.test, 99, 0)) == 48
