"""Tokenizer, rows, networks, training, sampling and scores of language models, on tiny ones."""

import json
import math
import shutil

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from accelerate import debug_launcher
from accelerate.state import AcceleratorState
from hypothesis import given
from hypothesis import strategies as st
from transformers import GPT2Config, GPT2LMHeadModel

from synreal.errors import InputError
from synreal.text.gpt2 import (
    END,
    IGNORED,
    cut_alike,
    encode,
    gpt2_config,
    head_of,
    learn_text_tokenizer,
    load_gpt2,
    load_text_tokenizer,
    load_with_tokenizer,
    new_gpt2,
    pack,
    training_rows,
)
from synreal.text.measures import sweep
from synreal.text.sample import Sampling, continue_texts, first_words, sample_texts
from synreal.text.train import (
    EvalHook,
    HeldOutText,
    LossEstimates,
    held_out,
    losses,
    next_token_loss,
    pretrained,
    scored,
    token_losses,
    tuned,
)
from synreal.train.recipes import Recipe

TEXTS = [
    f"The {animal} of house {n} sleeps all day." for n in range(20) for animal in ("cat", "dog", "old owl")
]
TINY = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 16}
RECIPE = Recipe(steps=6, batch_size=4, learning_rate=1e-2, warmup_steps=1)


@pytest.fixture(scope="module")
def tokenizer():
    return learn_text_tokenizer(TEXTS, 300)


@pytest.fixture(scope="module")
def config(tokenizer):
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    return GPT2Config(vocab_size=len(tokenizer), **TINY, **ends)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tokenizer, config):
    """A generator in the real format."""
    path = tmp_path_factory.mktemp("generator")
    new_gpt2(config, 0).half().save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def rows(tokenizer):
    return training_rows(encode(TEXTS, tokenizer), 8, tokenizer.eos_token_id, "texts")


def held(tokenizer, context=8):
    clusters = [f"house {n // 3}" for n in range(len(TEXTS))]
    return held_out(datasets.Dataset.from_dict({"text": TEXTS, "cluster": clusters}), tokenizer, context)


@given(st.text(max_size=60).filter(lambda text: END not in text))
def test_any_text_survives_the_tokenizer(tokenizer, text):
    assert tokenizer.decode(encode([text], tokenizer)[0], clean_up_tokenization_spaces=False) == text


def test_a_tokenizer_is_the_same_after_saving(tokenizer, folder):
    again = load_text_tokenizer(folder)
    assert len(again) == len(tokenizer) == 300 and again.eos_token == END
    assert encode(TEXTS, again) == encode(TEXTS, tokenizer)


def test_rows_hold_every_token_once(tokenizer):
    tokens = encode(TEXTS, tokenizer)
    found = pack(tokens, 8, 0)
    predicted = found[:, 1:][found[:, 1:] != IGNORED].tolist()
    assert predicted == [token for text in tokens for token in [*text, 0]]
    assert torch.equal(found[1:, 0], found[:-1, -1])


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=8))
def test_cut_alike_gives_equal_tokens_and_the_same_lengths(lengths):
    first, second = cut_alike([[1] * a for a, _ in lengths], [[2] * b for _, b in lengths])
    assert sorted(map(len, first)) == sorted(map(len, second))
    for (a, b), x, y in zip(lengths, first, second, strict=True):
        assert 0 < len(x) <= a and 0 < len(y) <= b
    assert sum(map(len, first)) >= len(lengths) * min(min(pair) for pair in lengths)


def test_less_text_than_one_context_is_refused(tokenizer):
    with pytest.raises(
        InputError, match="the real text: found 4 tokens in 1 texts, expected more than the context of 8"
    ):
        training_rows([[5, 6]], 8, 0, "the real text")
    with pytest.raises(InputError, match="found 1 and 2 texts"):
        cut_alike([[1]], [[1], [2]])


def test_a_tokenizer_of_another_network_is_refused(tmp_path, tokenizer, config):
    GPT2LMHeadModel(GPT2Config(vocab_size=700, **TINY)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="the tokenizer has 300 tokens and the network embeds 700"):
        load_with_tokenizer(tmp_path)
    with pytest.raises(InputError, match="the tokenizer has 300 tokens"):
        gpt2_config(str(tmp_path), tokenizer)


def test_networks_of_the_wrong_kind_are_refused(tmp_path, tokenizer):
    with pytest.raises(InputError, match="expected one of gpt2, mini, generator or a folder"):
        gpt2_config("gpt3", tokenizer)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": 300}))
    with pytest.raises(InputError, match="holds a llama network, expected gpt2"):
        load_gpt2(tmp_path)
    with pytest.raises(InputError, match="no tokenizer; expected tokenizer.json or vocab.json"):
        load_text_tokenizer(tmp_path)


def test_the_papers_architecture_has_124_million_weights(tokenizer):
    config = gpt2_config("gpt2", tokenizer)
    config.vocab_size = 50257
    with torch.device("meta"):
        model = GPT2LMHeadModel(config)
    assert sum(p.numel() for p in model.parameters()) == 124_439_808
    assert head_of(model) == "transformer.wte"


def test_token_losses_are_those_of_transformers(config, rows):
    model = new_gpt2(config, 0).eval()
    assert token_losses(model, rows).mean().item() == pytest.approx(
        model(input_ids=rows, labels=rows).loss.item(), rel=1e-5
    )


def test_pretraining_and_tuning_are_kept_and_repeatable(tmp_path, config, rows, tokenizer):
    start = pretrained(config, rows, RECIPE, tmp_path)
    assert pretrained(config, rows, RECIPE, tmp_path) == start
    before = (start / "model.safetensors").stat().st_mtime_ns
    out = tuned(start, rows[:6], "full", RECIPE, tmp_path, EvalHook(lambda m: {"loss": 1.0}, "one", 3))
    assert pd.read_csv(out / "curve.csv")["step"].tolist() == [0, 3, 6]
    assert (start / "model.safetensors").stat().st_mtime_ns == before
    assert not list(tmp_path.glob("*.training")) and not list(tmp_path.glob("*.partial"))
    other = tuned(start, rows[:6], "full", RECIPE, tmp_path / "other")
    weights = [load_gpt2(folder).transformer.wte.weight for folder in (out, other, start)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def trained_together(work, config, rows):
    torch.set_num_threads(1)
    AcceleratorState._reset_state(reset_partial_state=True)  # the parent's, which knows one process
    start = pretrained(config, rows, RECIPE, work)
    tuned(start, rows, "full", RECIPE, work)
    scored(
        start,
        HeldOutText(
            rows, torch.zeros(len(rows), dtype=torch.long), pd.DataFrame({"texts": [1], "bytes": [1]})
        ),
    )


def test_two_processes_train_one_network(tmp_path, config, rows, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # threads do not come along with a fork
    config = GPT2Config(**config.to_dict() | {f"{part}_pdrop": 0.0 for part in ("resid", "embd", "attn")})
    debug_launcher(trained_together, (tmp_path / "two", config, rows), num_processes=2)
    start = pretrained(config, rows, RECIPE, tmp_path / "one")
    alone = start, tuned(start, rows, "full", RECIPE, tmp_path / "one")
    together = sorted((tmp_path / "two").iterdir(), key=lambda made: (made / "curve.csv").exists())
    assert together[0].name == start.name and len(together) == 2
    for one, two in zip(alone, together, strict=True):
        other = load_gpt2(two).state_dict()
        for name, values in load_gpt2(one).state_dict().items():
            torch.testing.assert_close(other[name], values, atol=1e-4, rtol=0)


def test_a_curve_is_kept_for_the_text_and_the_steps_it_was_watched_at(tmp_path, config, rows):
    start = pretrained(config, rows, RECIPE, tmp_path)

    def curve(value, of, every=3):
        out = tuned(start, rows[:6], "full", RECIPE, tmp_path, EvalHook(lambda m: {"loss": value}, of, every))
        return pd.read_csv(out / "curve.csv")

    assert set(curve(1.0, "one")["loss"]) == set(curve(2.0, "one")["loss"]) == {1.0}  # kept
    assert set(curve(2.0, "two")["loss"]) == {2.0}
    assert curve(1.0, "one", every=2)["step"].tolist() == [0, 2, 4, 6]


@pytest.mark.parametrize("method", ["head", "lp-ft", "wise-ft"])
def test_every_method_tunes_a_language_model(tmp_path, config, rows, method):
    start = pretrained(config, rows, RECIPE, tmp_path)
    out = load_gpt2(tuned(start, rows[:6], method, RECIPE, tmp_path))
    first = load_gpt2(start)
    same = [torch.equal(a, b) for a, b in zip(out.parameters(), first.parameters(), strict=True)]
    assert not all(same) and (method != "head" or sum(not equal for equal in same) == 1)


def test_lora_would_change_the_embedding_too(tmp_path, config, rows):
    start = pretrained(config, rows, RECIPE, tmp_path)
    with pytest.raises(InputError, match="method lora: .* choose full, head, lp-ft or wise-ft"):
        tuned(start, rows[:6], "lora", RECIPE, tmp_path)


def test_training_lowers_the_loss(config, rows):
    from synreal.train.loop import fit

    model = new_gpt2(config, 0)
    seen = fit(model, next_token_loss(rows), len(rows), Recipe(60, 16, 1e-2, warmup_steps=5))
    assert seen[0] == pytest.approx(math.log(300), abs=0.3) and seen[-1] < 3.5


def test_scores_count_every_token_and_byte(tokenizer, config):
    model = new_gpt2(config, 0).eval()
    part = held(tokenizer)
    table = losses(model, part)
    assert len(TEXTS) == table["texts"].sum() and len(table) == 20
    assert table["tokens"].sum() == sum(map(len, encode(TEXTS, tokenizer))) + len(TEXTS)
    assert table["bytes"].sum() == sum(len(text) + 1 for text in TEXTS)
    one = pack(encode(TEXTS[:3], tokenizer), 8, tokenizer.eos_token_id)
    assert table["nats"][0] == pytest.approx(token_losses(model, one).sum().item(), rel=1e-5)


def test_scores_are_kept_beside_the_network(tmp_path, config, rows, tokenizer):
    start = pretrained(config, rows, RECIPE, tmp_path)
    first = scored(start, held(tokenizer))
    assert len(list(start.glob("losses-*.parquet"))) == 1
    pd.testing.assert_frame_equal(scored(start, held(tokenizer)), first)


def tables(nats, seeds=3, clusters=30):
    shared = np.random.default_rng(0).normal(size=clusters)
    own = np.random.default_rng(int(100 * nats)).normal(size=(seeds, clusters))
    sizes = {"texts": 2, "bytes": 300, "tokens": 100}
    return [
        pd.DataFrame(sizes | {"nats": 100 * nats + 20 * shared + own[s] - own[s].mean() + s})
        for s in range(seeds)
    ]


def test_intervals_over_clusters_and_seeds():
    found = LossEstimates({"a": tables(3.0), "b": tables(2.9)}, draws=500)
    loss = found.loss("a")
    expected = np.mean([t["nats"].sum() / 3000 for t in tables(3.0)])
    assert loss.value == pytest.approx(expected) and loss.ci_low < loss.value < loss.ci_high
    assert found.bits_per_byte("a").value == pytest.approx(loss.value / 3 / math.log(2))
    perplexity = found.perplexity("a")
    assert [perplexity.value, perplexity.ci_low] == pytest.approx(
        [math.exp(loss.value), math.exp(loss.ci_low)]
    )
    gap = found.difference("a", "b")  # paired: what clusters and seeds share cancels out
    assert gap.value == pytest.approx(0.1, abs=1e-4) and 0.09 < gap.ci_low < gap.value < gap.ci_high < 0.11


def test_seeds_that_differ_widen_an_interval():
    alike = tables(3.0)
    apart = [table.assign(nats=table["nats"] + 5 * seed) for seed, table in enumerate(alike)]
    narrow, wide = (LossEstimates({"a": made}, draws=200).loss("a") for made in (alike, apart))
    assert wide.ci_high - wide.ci_low > 1.5 * (narrow.ci_high - narrow.ci_low)
    with pytest.raises(InputError, match="found 9 clusters, expected 10 or more"):
        LossEstimates({"a": [table[:9] for table in alike]})


def test_a_text_depends_on_its_seed_alone(folder):
    model, tokenizer = load_with_tokenizer(folder)
    prompts = encode(["The cat", "The old owl of house", "The"], tokenizer)
    drawn = continue_texts(model, prompts, [7, 8, 9], Sampling(1.0, 1.0), tokenizer.eos_token_id)
    assert all(text[: len(p)] == p and len(text) <= 15 for text, p in zip(drawn, prompts, strict=True))
    alone = continue_texts(model, prompts[1:2], [8], Sampling(1.0, 1.0), tokenizer.eos_token_id)
    assert alone[0] == drawn[1]
    assert continue_texts(model, prompts[1:2], [3], Sampling(1.0, 1.0), tokenizer.eos_token_id) != alone


def test_cold_sampling_takes_the_likeliest_token(folder):
    model, tokenizer = load_with_tokenizer(folder)
    prompt = encode(["The cat"], tokenizer)
    drawn = continue_texts(model, prompt, [0], Sampling(0.001), tokenizer.eos_token_id)[0]
    rows = torch.tensor([[tokenizer.eos_token_id, *drawn]])
    likeliest = model(rows).logits.argmax(-1)[0, len(prompt[0]) : -1]
    assert drawn[len(prompt[0]) :] == likeliest.tolist()


def test_sampled_texts_carry_where_they_come_from(tmp_path, folder):
    prompts = first_words([*TEXTS[:5], "too short"])
    assert prompts == [" ".join(text.split()[:2]) for text in TEXTS[:5]]
    found = sample_texts(folder, prompts, Sampling(0.9, 0.8, seed=1), tmp_path / "kept")
    assert found["seed"][:] == [(1 << 32) + i for i in range(5)] and found["prompt"][:] == prompts
    assert set(found["temperature"]) == {0.9} and set(found["top_p"]) == {0.8} and len(set(found["id"])) == 5
    assert all(text.startswith(p) for text, p in zip(found["text"], prompts, strict=True))
    assert (
        sample_texts(folder, prompts, Sampling(0.9, 0.8, seed=1), tmp_path / "kept")["text"][:]
        == found["text"][:]
    )
    with pytest.raises(InputError, match="temperature 0.9, now 0.5"):
        sample_texts(folder, prompts, Sampling(0.5, 0.8, seed=1), tmp_path / "kept")


def test_another_tokenizer_beside_the_same_weights_is_another_generator(tmp_path, folder, monkeypatch):
    monkeypatch.setenv("SYNREAL_CACHE", str(tmp_path / "cache"))
    generator = tmp_path / "generator"
    shutil.copytree(folder, generator)
    prompts = ["The cat", "The dog"]
    swept = sweep(generator, prompts, [1.0], 0.9, seed=0)[1.0]
    sample_texts(generator, prompts, Sampling(), tmp_path / "kept")
    file = generator / "tokenizer.json"
    table = json.loads(file.read_text())
    words = table["model"]["vocab"]
    words["x"], words["y"] = words["y"], words["x"]
    file.write_text(json.dumps(table))
    with pytest.raises(InputError, match="holds a run made from other inputs: tokenizer "):
        sample_texts(generator, prompts, Sampling(), tmp_path / "kept")
    again = sweep(generator, prompts, [1.0], 0.9, seed=0)[1.0]
    assert len(list((tmp_path / "cache" / "texts").iterdir())) == 2
    swapped = str.maketrans("xy", "yx")
    assert [text.translate(swapped) for text in again["text"]] == swept["text"][:]
    assert again["generator"][:] == swept["generator"][:]  # which names the weights


def test_tuning_starts_from_the_weights_and_not_from_a_name(tmp_path, config, rows):
    for seed in (0, 1):
        new_gpt2(config, seed).save_pretrained(tmp_path / str(seed) / "gpt2")
    one, two = (tuned(tmp_path / s / "gpt2", rows, "full", RECIPE, tmp_path / "work") for s in "01")
    assert one != two


def test_sampling_that_makes_no_sense():
    with pytest.raises(InputError, match="expected a temperature above 0 and top_p above 0"):
        Sampling(temperature=0)
    with pytest.raises(InputError, match="top_p 1.5"):
        Sampling(top_p=1.5)
