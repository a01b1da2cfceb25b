"""What synthetic text lacks beside real text: all measures of two sets, and a sweep over temperature."""

from collections.abc import Sequence
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
from torch import nn
from transformers import PreTrainedTokenizerFast

from synreal.models.tokens import tokenizer_hash
from synreal.paths import cache_dir
from synreal.text.gpt2 import fingerprint
from synreal.text.measures import COVERAGE, Parts, compare, coverage, measure_texts, same_amount, words_of
from synreal.text.sample import Sampling, digest_of, sample_texts
from synreal.text.score import held_out, losses

JUDGED = "judged loss"


def compare_texts(
    real: datasets.Dataset,
    synthetic: datasets.Dataset,
    reference: datasets.Dataset,
    judge: nn.Module,
    tokenizer: PreTrainedTokenizerFast,
    context: int,
    draws: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """`measures.compare` of every measure, of as many words of both sets; real texts in clusters.

    `reference`: real text of neither set, which says which words are common and which are to be covered.
    `judge`: a language model of real text that is in neither set; the judged loss is in nats per token of
    the `tokenizer`, the logarithm of perplexity.
    """
    words = same_amount(words_of(real["text"]), words_of(synthetic["text"]))
    asked = words_of(reference["text"])
    real, synthetic = (
        part.select(range(len(texts))) for part, texts in zip((real, synthetic), words, strict=True)
    )
    found = []
    for part, texts in zip((real, synthetic), words, strict=True):
        judged = _judged(part, judge, tokenizer, context)
        own: Parts = {COVERAGE: coverage(texts, asked), **measure_texts(texts, asked), JUDGED: judged}
        found.append(own)
    clusters = dict.fromkeys(found[0], real["cluster"][:]) | {COVERAGE: reference["cluster"][:]}
    return compare(found[0], found[1], clusters, draws, seed)


def sweep(
    generator: str | Path, prompts: Sequence[str], temperatures: Sequence[float], top_p: float, seed: int
) -> dict[str, datasets.Dataset]:
    """The same prompts at several temperatures, by name ("T = 0.5"); kept in the cache."""
    sets = {}
    made_by = f"{fingerprint(generator)}-{tokenizer_hash(generator)}"
    for temperature in temperatures:
        sampling = Sampling(temperature, top_p, seed)
        name = f"{made_by}-{digest_of(prompts)}-{temperature:g}-{top_p:g}-{seed}"
        sets[f"T = {temperature:g}"] = sample_texts(
            generator, prompts, sampling, cache_dir() / "texts" / name
        )
    return sets


def _judged(
    texts: datasets.Dataset, judge: nn.Module, tokenizer: PreTrainedTokenizerFast, context: int
) -> np.ndarray:
    """Nats and tokens of each text, [texts, 2], each read by itself."""
    alone = texts.remove_columns("cluster").add_column("cluster", [f"{row}" for row in range(len(texts))])
    return losses(judge, held_out("judged", alone, tokenizer, context))[["nats", "tokens"]].to_numpy()
