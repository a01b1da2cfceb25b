"""Text metrics: of a set of generated texts, beside written ones."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, pairwise
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
from torch import nn
from transformers import PreTrainedTokenizerFast

from synreal.errors import InputError
from synreal.evaluate.resampling import percentile_interval, resampled_sums
from synreal.models.clip import tokenizer_hash
from synreal.paths import cache_dir
from synreal.text.gpt2 import fingerprint
from synreal.text.sample import Sampling, digest_of, sample_texts
from synreal.text.train import held_out, losses

COMMON = 1000  # words; what is rarer is the tail
COVERAGE = "coverage"
Words = list[str]
Parts = Mapping[str, np.ndarray]  # by metric, [texts, 2]: numerators and denominators


def words_of(texts: Sequence[str]) -> list[Words]:
    """The words of each text."""
    return [re.findall(r"[^\W\d_]+", text.lower()) for text in texts]


def same_amount(first: Sequence[Words], second: Sequence[Words]) -> tuple[Sequence[Words], Sequence[Words]]:
    """The texts from the front of each set, up to the words of the smaller one (but for part of a text)."""
    ends = [np.cumsum([len(words) for words in part]) for part in (first, second)]
    amount = min(end[-1] for end in ends)
    cut = [
        part[: int(np.searchsorted(end, amount)) + 1] for part, end in zip((first, second), ends, strict=True)
    ]
    return cut[0], cut[1]


def measure_texts(texts: Sequence[Words], reference: Sequence[Words]) -> Parts:
    """The metrics of a set; its texts are the units.

    - length: words in a text;
    - tail mass: share of words that are not among the COMMON commonest of the reference, other real text;
    - distinct words, distinct trigrams: how many different ones there are in the whole set, to all of them;
    - repetition: share of a text's pairs of words that it has said before.
    """
    common = {word for word, _ in Counter(chain(*reference)).most_common(COMMON)}
    trigrams = [list(zip(words, words[1:], words[2:], strict=False)) for words in texts]
    pairs = [list(pairwise(words)) for words in texts]
    return {
        "length": _ratio([len(words) for words in texts], np.ones(len(texts))),
        "tail mass": _ratio([sum(w not in common for w in words) for words in texts], map(len, texts)),
        "distinct words": _distinct(texts),
        "distinct trigrams": _distinct(trigrams),
        "repetition": _ratio([len(found) - len(set(found)) for found in pairs], map(len, pairs)),
    }


def coverage(texts: Sequence[Words], reference: Sequence[Words]) -> np.ndarray:
    """Of the words of each reference text, how many occur anywhere in `texts`: [reference texts, 2].

    The units are the reference's texts: the set is taken as it is.
    """
    known = set(chain(*texts))
    return _ratio([sum(word in known for word in words) for words in reference], map(len, reference))


def compare(
    real: Parts,
    synthetic: Parts,
    clusters: Mapping[str, Sequence[str]] | None = None,
    draws: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Four rows per metric: real, synthetic, difference and ratio (synthetic to real), with their intervals.

    Columns metric, statistic, value, n, ci_low, ci_high, reason (of a missing value). `clusters`: of the real
    texts, a name each, by metric. Real and synthetic texts are drawn apart, except where both are the same
    reference texts (coverage), which are drawn once.
    """
    rows = []
    for name in real:
        if len(real[name]) == 0 or len(synthetic[name]) == 0:
            raise InputError(f"{name}: found a set without texts, expected at least one in each")
        codes = (
            None if clusters is None or name not in clusters else pd.factorize(np.array(clusters[name]))[0]
        )
        paired = name == COVERAGE
        sides = {"real": _ratios(real[name], draws, seed, codes)}
        sides["synthetic"] = _ratios(synthetic[name], draws, seed + (not paired), codes if paired else None)
        sides["difference"] = sides["synthetic"] - sides["real"]
        sides["ratio"] = _divided(sides["synthetic"], sides["real"])
        counts = {"real": len(real[name]), "synthetic": len(synthetic[name])}
        for statistic, values in sides.items():
            n = counts.get(statistic, min(counts.values()))
            low, high = percentile_interval(values[1:])
            row = {"metric": name, "statistic": statistic, "value": values[0], "n": n}
            rows.append(row | {"ci_low": min(low, values[0]), "ci_high": max(high, values[0])})
    table = pd.DataFrame(rows)
    return table.assign(reason=np.where(table["value"].isna(), "nothing to divide by", ""))


def _ratios(parts: np.ndarray, draws: int, seed: int, codes: np.ndarray | None) -> np.ndarray:
    """The ratio of sums [1 + draws]: the value itself, then the draws."""
    sums = np.vstack([parts.sum(0), resampled_sums(parts.astype(np.float32), draws, seed, codes)])
    return _divided(sums[:, 0], sums[:, 1])


def _divided(numerators: np.ndarray, denominators: np.ndarray) -> np.ndarray:
    """NaN where there is nothing to divide by."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(denominators == 0, np.nan, numerators / denominators)


def _ratio(numerators: Iterable[float], denominators: Iterable[float]) -> np.ndarray:
    return np.stack([np.array(list(numerators), float), np.array(list(denominators), float)], 1)


def _distinct(units: Sequence[Sequence]) -> np.ndarray:
    """An occurrence counts 1 / (how often it occurs in all), so that the sum is the number of different ones.

    A bootstrap that counted anew would find fewer, as it draws texts twice.
    """
    often = Counter(chain(*units))
    return _ratio([sum(1 / often[unit] for unit in text) for text in units], map(len, units))


# All text metrics of two sets, and a sweep over temperature.


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
    """`compare` of every metric, of as many words of both sets; real texts in clusters.

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
) -> dict[float, datasets.Dataset]:
    """The same prompts at several temperatures, by temperature; kept in the cache."""
    sets = {}
    made_by = f"{fingerprint(generator)}-{tokenizer_hash(generator)}"
    for temperature in temperatures:
        sampling = Sampling(temperature, top_p, seed)
        name = f"{made_by}-{digest_of(prompts)}-{temperature:g}-{top_p:g}-{seed}"
        sets[temperature] = sample_texts(generator, prompts, sampling, cache_dir() / "texts" / name)
    return sets


def _judged(
    texts: datasets.Dataset, judge: nn.Module, tokenizer: PreTrainedTokenizerFast, context: int
) -> np.ndarray:
    """Nats and tokens of each text, [texts, 2], each read by itself."""
    alone = texts.remove_columns("cluster").add_column("cluster", [f"{row}" for row in range(len(texts))])
    return losses(judge, held_out(alone, tokenizer, context))[["nats", "tokens"]].to_numpy()
