"""Training, scoring and tuning of language models: Table 4 of P1."""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_args

import datasets
import numpy as np
import pandas as pd
import torch
from joblib import delayed
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from synreal.cache import side_by_side
from synreal.errors import InputError
from synreal.evaluate.repeated import Estimate, crossed_estimate
from synreal.evaluate.resampling import MINIMUM_IMAGES, resampled_sums
from synreal.text.gpt2 import (
    IGNORED,
    cut_alike,
    encode,
    fastest_device,
    fingerprint,
    gpt2_config,
    head_of,
    load_gpt2,
    new_gpt2,
    pack,
    training_rows,
)
from synreal.text.guard import check_disjoint
from synreal.train.finetune import Method, Tunable, tune
from synreal.train.loop import Loss, device_of, fit
from synreal.train.recipes import Recipe
from synreal.train.state import Watch, processes


def token_losses(model: Any, rows: Tensor) -> Tensor:
    """Minus the log probability (nats) of each token of rows [n, context + 1] but the first: [n, context].

    0 where a row is IGNORED.
    """
    rows = rows.to(device_of(model))
    logits = model(input_ids=rows[:, :-1].clamp(min=0), use_cache=False).logits
    flat = F.cross_entropy(
        logits.flatten(0, 1).float(), rows[:, 1:].flatten(), ignore_index=IGNORED, reduction="none"
    )
    return flat.view(len(rows), -1)


def next_token_loss(rows: Tensor) -> Loss:
    """The loss that `fit` and `tune` take: the mean over the tokens of the chosen full rows."""

    def loss(model: Any, chosen: Tensor, generator: torch.Generator) -> Tensor:
        return token_losses(model, rows[chosen]).mean()

    return loss


@dataclass(frozen=True)
class Looks:
    """What is looked at while a network is tuned."""

    watch: Watch
    of: str  # what `watch` depends on, such as the `digest` of its rows; the kept curve is named after it
    every: int | None = None  # steps


def pretrained(config: GPT2Config, rows: Tensor, recipe: Recipe, work: Path) -> Path:
    """The folder below `work` of a network trained on rows [n, context + 1] from nothing.

    It is named after all that the result depends on, and not trained again when it is complete.
    """
    inputs = {"config": config.to_diff_dict(), "rows": digest(rows), "recipe": asdict(recipe)}
    out = work / _name(inputs)
    if not out.exists():
        model = new_gpt2(config, recipe.seed)
        fit(model, next_token_loss(rows), len(rows), recipe, _state(out))
        _finish(out, model)
    return out


def tuned(
    start: Path,
    rows: Tensor,
    method: Method,
    recipe: Recipe,
    work: Path,
    looks: Looks | None = None,
) -> Path:
    """The folder below `work` of the network in `start` after `tune` on rows; named and kept as `pretrained`.

    curve.csv in it holds what the looks saw.
    """
    check_method(method, load_gpt2(start).config)
    inputs: dict[str, Any] = {"start": fingerprint(start), "rows": digest(rows), "method": method}
    inputs |= {"recipe": asdict(recipe), "looks": [looks.of, looks.every] if looks else None}
    out = work / _name(inputs)
    if not out.exists():
        model = load_gpt2(start)
        tunable = Tunable(model, next_token_loss(rows), len(rows), head_of(model), inputs=inputs)
        watch, every = (looks.watch, looks.every) if looks else (None, None)
        done = tune(tunable, method, recipe, _state(out), watch, every)
        _finish(out, model, {"curve.csv": done.curve.to_csv(index=False)})
    return out


def check_method(method: Method, config: GPT2Config) -> None:
    """Raises InputError for a method that does not tune a language model of this config."""
    if method not in get_args(Method) or method == "flyp":  # which sets images beside captions
        raise InputError(f"method: found {method!r}, expected full, head, lp-ft, wise-ft or lora")
    if method == "lora" and config.tie_word_embeddings:
        raise InputError(
            "method lora: the head of this network is its embedding of tokens, which the additions would "
            "change too; choose full, head, lp-ft or wise-ft"
        )


def digest(rows: Tensor) -> str:
    """16 hexadecimal digits of the rows."""
    return hashlib.sha256(rows.numpy().tobytes()).hexdigest()[:16]


def _name(inputs: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]


def _state(out: Path) -> Path:
    return out.with_name(f"{out.name}.training")


def _finish(out: Path, model: GPT2LMHeadModel, texts: Mapping[str, str] | None = None) -> None:
    """Network and files under their name in one move; then the state of training can go.

    Of several processes, the main one writes and the others wait.
    """
    if processes().is_main_process:
        partial = out.with_name(f"{out.name}.partial")
        model.save_pretrained(partial)
        for name, text in (texts or {}).items():
            (partial / name).write_text(text)
        partial.replace(out)
        shutil.rmtree(_state(out), ignore_errors=True)
    processes().wait_for_everyone()


# Loss on held-out text, cluster by cluster, with intervals over clusters and seeds.


AT_ONCE = 8192  # tokens in one batch


@dataclass(frozen=True)
class Held:
    """Held-out text in rows that never span two clusters."""

    name: str
    rows: Tensor  # [n, context + 1]
    clusters: Tensor  # [n], codes from 0
    size: pd.DataFrame  # one row per cluster: texts, bytes (UTF-8, with one for the end of each text)

    @property
    def texts(self) -> int:
        """How many texts there are."""
        return int(self.size["texts"].sum())


def held_out(name: str, texts: datasets.Dataset, tokenizer: PreTrainedTokenizerFast, context: int) -> Held:
    """The rows of a text set, its clusters one after the other."""
    frame = pd.DataFrame({"tokens": encode(texts["text"], tokenizer), "cluster": texts["cluster"][:]})
    frame["bytes"] = [len(text.encode()) + 1 for text in texts["text"]]
    groups = [part for _, part in frame.groupby("cluster", sort=False)]
    rows = [pack(part["tokens"].tolist(), context, tokenizer.eos_token_id) for part in groups]
    codes = torch.arange(len(rows)).repeat_interleave(torch.tensor([len(part) for part in rows]))
    size = pd.DataFrame([{"texts": len(part), "bytes": part["bytes"].sum()} for part in groups])
    return Held(name, torch.cat(rows), codes, size)


@torch.no_grad()
def losses(model: nn.Module, held: Held) -> pd.DataFrame:
    """One row per cluster: nats (summed over its tokens), tokens, bytes."""
    at_once = max(1, AT_ONCE // held.rows.shape[1])
    nats = torch.cat([token_losses(model, part).sum(1).double().cpu() for part in held.rows.split(at_once)])
    tokens = (held.rows[:, 1:] >= 0).sum(1)
    sums = [np.bincount(held.clusters, weights=column) for column in (nats, tokens)]
    return held.size.assign(nats=sums[0], tokens=sums[1])


def mean_loss(model: nn.Module, held: Held) -> float:
    """Nats per token."""
    table = losses(model, held)
    return float(table["nats"].sum() / table["tokens"].sum())


def scored(folder: Path, held: Held) -> pd.DataFrame:
    """`losses` of the network in a folder, kept beside it; of several processes the main one computes."""
    file = folder / f"losses-{digest(held.rows)}.parquet"
    if processes().is_main_process and not file.exists():
        partial = file.with_suffix(".partial")
        losses(load_gpt2(folder).to(fastest_device()), held).to_parquet(partial)
        partial.replace(file)
    processes().wait_for_everyone()
    return pd.read_parquet(file)


def check_clusters(count: int) -> None:
    """Raises InputError where the test text has too few clusters for an interval."""
    if count < MINIMUM_IMAGES:
        raise InputError(
            f"test text: found {count} clusters, expected {MINIMUM_IMAGES} or more for an interval; give "
            "more texts, or a column cluster that tells what belongs together"
        )


class Losses:
    """What models of several seeds lose on the same clusters, and intervals of it.

    A model's value is the mean over its seeds; see `crossed_estimate`. Clusters are drawn with
    replacement. All models share the draws, and differences are taken seed by seed, so that they are paired.
    """

    def __init__(
        self, tables: Mapping[str, Sequence[pd.DataFrame]], draws: int = 2000, seed: int = 0
    ) -> None:
        first = next(iter(tables.values()))
        self.clusters = len(first[0])
        check_clusters(self.clusters)
        nats = [np.stack([table["nats"] for table in by_seed], 1) for by_seed in tables.values()]
        columns = np.concatenate([first[0][["tokens", "bytes"]].to_numpy(), *nats], 1)
        # row 0 of all that follows is the text itself, the other rows are draws
        sums = np.vstack([columns.sum(0), resampled_sums(columns.astype(np.float32), draws, seed)])
        self.tokens, self.bytes = sums[:, :1], sums[:, 1:2]
        self._nats = dict(zip(tables, np.split(sums[:, 2:], len(tables), axis=1), strict=True))

    def loss(self, model: str) -> Estimate:
        """Nats per token."""
        return self._estimate(self._nats[model] / self.tokens)

    def perplexity(self, model: str) -> Estimate:
        """exp of the loss: among how many tokens the model is torn, at an even chance."""
        loss = self.loss(model)
        value, low, high = np.exp([loss.value, loss.ci_low, loss.ci_high]).tolist()
        return Estimate(value, low, high, loss.seeds)

    def bits_per_byte(self, model: str) -> Estimate:
        """What a byte of the text costs when it is packed with the model; the same for any tokenizer."""
        return self._estimate(self._nats[model] / self.bytes / np.log(2))

    def difference(self, model: str, other: str) -> Estimate:
        """Loss of `model` minus loss of `other`."""
        return self._estimate((self._nats[model] - self._nats[other]) / self.tokens)

    def _estimate(self, values: np.ndarray) -> Estimate:
        """values: [1 + draws, seeds]."""
        return crossed_estimate(values[0], values[1:].mean(axis=1), self.clusters)


# Table 4 of P1: language models pretrained on real or synthetic text, tuned on either, and controls.


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
