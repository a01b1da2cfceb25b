"""Table 4 of P1: language models pretrained on real or synthetic text, tuned on either, and controls."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import torch
from joblib import delayed
from torch import Tensor
from transformers import GPT2Config, PreTrainedTokenizerFast

from synreal.errors import InputError
from synreal.text.gpt2 import gpt2_config
from synreal.text.guard import check_disjoint
from synreal.text.rows import cut_alike, encode, training_rows
from synreal.text.score import Held, check_clusters, held_out, mean_loss, scored
from synreal.text.train import Looks, check_method, digest, pretrained, tuned
from synreal.train.processes import processes
from synreal.train.recipes import Recipe
from synreal.train.tune import Method
from synreal.workers import side_by_side

REAL, SYN, MIX, BOTH = "GPT2-Real", "GPT2-Syn", "GPT2-Mix", "GPT2-Syn+Real"
SEEN = "RealTune, seen text"
# Which rows each model is tuned on after its pretraining. GPT2-Syn+Real is a control without tuning: it has
# the real text of RealTune from the start. So is SEEN: real text that GPT2-Real has already learned from.
TUNINGS: dict[str, tuple[str, ...]] = {
    REAL: ("SynTune", "RealTune", SEEN),
    SYN: ("SynTune", "RealTune"),
    MIX: ("RealTune",),
    BOTH: (),
}


@dataclass(frozen=True)
class Plan:
    """How large, how long, how often."""

    architecture: str  # see `gpt2_config`
    context: int  # tokens that a model sees at once
    texts: int  # of pretraining, real or synthetic
    tuning_texts: int
    pretraining: Recipe
    tuning: Recipe
    method: Method = "full"
    seeds: tuple[int, ...] = (0, 1, 2)  # each with its own texts, first weights and order
    looks: int = 4  # at the validation loss, while a model is tuned

    def check(self, config: GPT2Config) -> None:
        """Raises InputError for what a network of this config cannot do, before any is trained."""
        if len(self.seeds) < 2 or len(set(self.seeds)) < len(self.seeds):
            raise InputError(f"seeds: found {list(self.seeds)}, expected two or more different ones")
        if not 1 <= self.context <= config.n_positions:
            raise InputError(
                f"context: found {self.context}, expected 1 to the {config.n_positions} positions of "
                f"{self.architecture}"
            )
        check_method(self.method, config)


@dataclass(frozen=True)
class Sets:
    """The text sets of a study."""

    real: datasets.Dataset
    synthetic: datasets.Dataset
    validation: datasets.Dataset
    test: datasets.Dataset

    def check(self) -> None:
        """Raises InputError when text to learn from, or to choose settings by, is also text to judge with."""
        training = {"the real text": self.real["text"], "the synthetic text": self.synthetic["text"]}
        judged = {"the validation text": self.validation["text"], "the test text": self.test["text"]}
        check_disjoint(training, judged)
        check_disjoint({"the validation text": self.validation["text"]}, {"the test text": self.test["text"]})


@dataclass(frozen=True)
class Trained:
    """All models of a study: losses on the test text by model (a table per seed), and curves of tuning."""

    losses: dict[str, list[pd.DataFrame]]
    curves: pd.DataFrame  # model, seed, step, loss (on validation text)
    folders: dict[str, list[Path]]


def model_names() -> list[str]:
    """Every model of the study, as results name it."""
    return [name for base, tunings in TUNINGS.items() for name in (base, *tuned_names(base, tunings))]


def tuned_names(base: str, tunings: Sequence[str]) -> list[str]:
    """ "GPT2-Syn (RealTune)" and so on."""
    return [f"{base} ({tuning})" for tuning in tunings]


def run_study(
    plan: Plan, sets: Sets, tokenizer: PreTrainedTokenizerFast, work: Path, workers: int = 1
) -> Trained:
    """Train what is not yet there below `work`, and score it on the test text.

    Real and synthetic text, of pretraining and of tuning, are equal in texts and in tokens. `workers` train
    families side by side; a script launched as several processes, which train each network together, takes 1.
    """
    if workers > 1 and processes().num_processes > 1:
        raise InputError(f"workers: found {workers} in a launch of several processes, expected 1")
    plan.check(gpt2_config(plan.architecture, tokenizer))
    sets.check()
    validation = held_out("validation", sets.validation, tokenizer, plan.context)
    test = held_out("test", sets.test, tokenizer, plan.context)
    check_clusters(len(test.size))
    rows = {seed: training_text(plan, sets, tokenizer, seed) for seed in plan.seeds}
    jobs = [(seed, base) for base in TUNINGS for seed in plan.seeds]
    train = delayed(_train_family)
    done = side_by_side(workers)(
        train(plan, base, rows[seed], tokenizer, seed, validation, test, work) for seed, base in jobs
    )
    losses: dict[str, list[pd.DataFrame]] = {name: [] for name in model_names()}
    folders: dict[str, list[Path]] = {name: [] for name in model_names()}
    for family in done:
        for name, folder in family.items():
            folders[name].append(folder)
            losses[name].append(scored(folder, test))
    curves = [
        pd.read_csv(folder / "curve.csv").assign(model=name, seed=seed)
        for name, by_seed in folders.items()
        for seed, folder in zip(plan.seeds, by_seed, strict=True)
        if (folder / "curve.csv").exists()
    ]
    return Trained(losses, pd.concat(curves, ignore_index=True), folders)


def training_text(plan: Plan, sets: Sets, tokenizer: PreTrainedTokenizerFast, seed: int) -> dict[str, Tensor]:
    """The rows of every pretraining and tuning by name, from texts drawn by the seed."""
    count, more = plan.texts, plan.tuning_texts
    real, synthetic = (
        encode(_draw(part, count + more, seed, name), tokenizer)
        for part, name in ((sets.real, "the real text"), (sets.synthetic, "the synthetic text"))
    )
    first, tuning = cut_alike(real[:count], synthetic[:count]), cut_alike(real[count:], synthetic[count:])
    half = count // 2
    named = {
        REAL: first[0],
        SYN: first[1],
        MIX: first[0][:half] + first[1][half:],
        "RealTune": tuning[0],
        "SynTune": tuning[1],
    }
    rows = {
        name: training_rows(part, plan.context, tokenizer.eos_token_id, name) for name, part in named.items()
    }
    least = min(len(rows[name]) for name in (REAL, SYN, MIX))
    rows |= {name: rows[name][:least] for name in (REAL, SYN, MIX)}
    return rows | {
        BOTH: torch.cat([rows[SYN], rows["RealTune"]]),
        SEEN: rows[REAL][: len(rows["RealTune"])],
    }


def _train_family(
    plan: Plan,
    base: str,
    rows: Mapping[str, Tensor],
    tokenizer: PreTrainedTokenizerFast,
    seed: int,
    validation: Held,
    test: Held,
    work: Path,
) -> dict[str, Path]:
    """A pretrained model and what is tuned from it: folders by name, each scored."""
    config = gpt2_config(plan.architecture, tokenizer)
    steps = plan.pretraining.steps + (plan.tuning.steps if base == BOTH else 0)
    start = pretrained(config, rows[base], replace(plan.pretraining, steps=steps, seed=seed), work)
    every = max(1, plan.tuning.steps // plan.looks)
    looks = Looks(lambda m: {"loss": mean_loss(m, validation)}, digest(validation.rows), every)
    recipe = replace(plan.tuning, seed=seed)
    folders = {base: start}
    for tuning, name in zip(TUNINGS[base], tuned_names(base, TUNINGS[base]), strict=True):
        folders[name] = tuned(start, rows[tuning], plan.method, recipe, work, looks)
    for folder in folders.values():
        scored(folder, test)
    return folders


def unseen(plan: Plan, texts: datasets.Dataset, count: int, name: str) -> datasets.Dataset:
    """So many texts of a set that no model of the first seed has seen in training."""
    used = plan.texts + plan.tuning_texts
    return texts.select(_order(texts, used + count, plan.seeds[0], name)[used:])


def some_of(texts: datasets.Dataset, count: int, seed: int) -> datasets.Dataset:
    """So many texts of a set, or all where there are fewer, in the set's order."""
    order = np.random.default_rng(seed).permutation(len(texts))[:count]
    return texts.select(np.sort(order))


def _draw(texts: datasets.Dataset, count: int, seed: int, name: str) -> list[str]:
    return texts.select(_order(texts, count, seed, name))["text"][:]


def _order(texts: datasets.Dataset, count: int, seed: int, name: str) -> np.ndarray:
    """The first `count` rows in the seed's order."""
    if len(texts) < count:
        raise InputError(
            f"{name}: found {len(texts):,} texts, expected {count:,} different ones; ask for fewer"
        )
    return np.random.default_rng(seed).permutation(len(texts))[:count]
