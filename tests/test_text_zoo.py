"""The generator and the synthetic texts that ship, and how they are made."""

import pandas as pd
import pytest
import torch

from synreal import zoo
from synreal.paths import zoo_dir
from synreal.text.corpora import austen, load_texts
from synreal.text.gpt2 import END, fingerprint, load_with_tokenizer
from synreal.text.guard import check_disjoint
from synreal.text.sample import Sampling, first_words, sample_texts
from synreal.text.train import held_out, losses
from synreal.train.recipes import Recipe

GENERATOR = zoo_dir() / "text-generator"


@pytest.fixture(scope="module")
def shipped():
    return load_texts("zoo/synthetic-text").to_pandas()


def test_the_generator_predicts_text_it_has_not_seen():
    model, tokenizer = load_with_tokenizer(GENERATOR)
    part = held_out(austen("C").select(range(60)), tokenizer, model.config.n_positions)
    found = losses(model, part)
    assert found["nats"].sum() / found["tokens"].sum() == pytest.approx(3.43, abs=0.15)


def test_synthetic_texts_say_where_they_come_from(shipped):
    assert len(shipped) == zoo.TEXTS and shipped["id"].is_unique
    assert set(shipped["generator"]) == {fingerprint(GENERATOR)}
    assert set(shipped["temperature"]) == {Sampling().temperature} and set(shipped["top_p"]) == {
        Sampling().top_p
    }
    assert shipped["seed"].tolist() == list(range(zoo.TEXTS))
    begun = [text.startswith(prompt) for text, prompt in zip(shipped["text"], shipped["prompt"], strict=True)]
    assert all(begun)
    prompts = first_words(austen("A").shuffle(seed=0)["text"])[: zoo.TEXTS]
    assert shipped["prompt"].tolist() == prompts


def test_the_shipped_texts_can_be_drawn_again(shipped):
    """Rounding differs between machines, so that some texts may take another turn; most do not."""
    again = sample_texts(GENERATOR, shipped["prompt"].tolist()[:12])["text"][:]
    assert sum(a == b for a, b in zip(again, shipped["text"], strict=False)) >= 6


def test_synthetic_texts_are_none_of_the_texts_to_judge_with(shipped):
    judged = {part: austen(part)["text"] for part in "CD"}
    check_disjoint({"synthetic": shipped["text"].tolist()}, judged)


def test_what_ships_is_small():
    sizes = {
        name: sum(f.stat().st_size for f in (zoo_dir() / name).iterdir())
        for name in ("text-generator", "synthetic-text")
    }
    assert sizes["text-generator"] < 2.5e6 and sizes["synthetic-text"] < 1e6


def test_the_zoos_text_is_made_from_nothing(tmp_path, monkeypatch):
    few = {part: austen(part).select(range(40)) for part in "A"}
    monkeypatch.setattr(zoo, "austen", few.__getitem__)
    recipe = Recipe(steps=2, batch_size=2, warmup_steps=1)
    generator = zoo.train_text_generator(tmp_path / "zoo", tmp_path / "work", recipe)
    model, tokenizer = load_with_tokenizer(generator)
    assert tokenizer.eos_token == END and model.config.n_positions == 192
    assert all(torch.isfinite(weight).all() for weight in model.parameters())
    texts = zoo.synthetic_texts(generator, tmp_path / "zoo", tmp_path / "work", count=3)
    assert len(pd.read_parquet(texts / "texts.parquet")) == 3
    before = (generator / "model.safetensors").stat().st_mtime_ns
    assert zoo.train_text_generator(tmp_path / "zoo", tmp_path / "work", recipe) == generator
    assert (generator / "model.safetensors").stat().st_mtime_ns == before
