"""Language models trained, tuned and scored on held-out text: the grid of P1's Table 4."""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, get_args

import datasets
import numpy as np
import pandas as pd
import torch
from joblib import delayed
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from synreal.cache import atomic, side_by_side
from synreal.errors import InputError
from synreal.evaluate.repeated import Estimate, crossed_estimate, drawn_variance
from synreal.evaluate.resampling import MINIMUM_IMAGES, resampled_sums
from synreal.text.gpt2 import (
    IGNORED,
    Tokens,
    cut_alike,
    encode,
    fastest_device,
    fingerprint,
    gpt2_config,
    head_of,
    load_gpt2,
    new_gpt2,
    pack,
)
from synreal.text.guard import check_apart, check_disjoint
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
class EvalHook:
    """What is evaluated while a network is tuned, and how often."""

    evaluate: Watch
    of: str  # what `evaluate` depends on, such as the `digest` of its rows; the curve is named after it
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
    hook: EvalHook | None = None,
) -> Path:
    """The folder below `work` of the network in `start` after `tune` on rows, cached as `pretrained`.

    curve.csv in it holds what the hook found.
    """
    check_method(method, load_gpt2(start).config)
    inputs: dict[str, Any] = {"start": fingerprint(start), "rows": digest(rows), "method": method}
    inputs |= {"recipe": asdict(recipe), "looks": [hook.of, hook.every] if hook else None}
    out = work / _name(inputs)
    if not out.exists():
        model = load_gpt2(start)
        tunable = Tunable(model, next_token_loss(rows), len(rows), head_of(model), inputs=inputs)
        evaluate, every = (hook.evaluate, hook.every) if hook else (None, None)
        done = tune(tunable, method, recipe, _state(out), evaluate, every)
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
        with atomic(out) as partial:
            model.save_pretrained(partial)
            for name, text in (texts or {}).items():
                (partial / name).write_text(text)
        shutil.rmtree(_state(out), ignore_errors=True)
    processes().wait_for_everyone()


# Loss on held-out text, cluster by cluster, with intervals over clusters and seeds.


AT_ONCE = 8192  # tokens in one batch


@dataclass(frozen=True)
class HeldOutText:
    """Held-out text in rows that never span two clusters."""

    rows: Tensor  # [n, context + 1]
    clusters: Tensor  # [n], codes from 0
    size: pd.DataFrame  # one row per cluster: texts, bytes (UTF-8, with one for the end of each text)


def held_out(texts: datasets.Dataset, tokenizer: PreTrainedTokenizerFast, context: int) -> HeldOutText:
    """The rows of a text set, its clusters one after the other."""
    frame = pd.DataFrame({"tokens": encode(texts["text"], tokenizer), "cluster": texts["cluster"][:]})
    frame["bytes"] = [len(text.encode()) + 1 for text in texts["text"]]
    groups = [part for _, part in frame.groupby("cluster", sort=False)]
    rows = [pack(part["tokens"].tolist(), context, tokenizer.eos_token_id) for part in groups]
    codes = torch.arange(len(rows)).repeat_interleave(torch.tensor([len(part) for part in rows]))
    size = pd.DataFrame([{"texts": len(part), "bytes": part["bytes"].sum()} for part in groups])
    return HeldOutText(torch.cat(rows), codes, size)


@torch.no_grad()
def losses(model: nn.Module, held: HeldOutText) -> pd.DataFrame:
    """One row per cluster: nats (summed over its tokens), tokens, texts, bytes."""
    at_once = max(1, AT_ONCE // held.rows.shape[1])
    nats = torch.cat([token_losses(model, part).sum(1).double().cpu() for part in held.rows.split(at_once)])
    tokens = (held.rows[:, 1:] >= 0).sum(1)
    sums = [np.bincount(held.clusters, weights=column) for column in (nats, tokens)]
    return held.size.assign(nats=sums[0], tokens=sums[1])


def mean_loss(model: nn.Module, held: HeldOutText) -> float:
    """Nats per token."""
    table = losses(model, held)
    return float(table["nats"].sum() / table["tokens"].sum())


def scored(folder: Path, held: HeldOutText) -> pd.DataFrame:
    """`losses` of the network in a folder, cached beside it; of several processes the main one computes."""
    file = folder / f"losses-{digest(held.rows)}.parquet"
    if processes().is_main_process and not file.exists():
        with atomic(file) as partial:
            losses(load_gpt2(folder).to(fastest_device()), held).to_parquet(partial)
    processes().wait_for_everyone()
    return pd.read_parquet(file)


def check_clusters(count: int, what: str = "test text") -> None:
    """Raises InputError where a text has too few clusters for an interval."""
    if count < MINIMUM_IMAGES:
        raise InputError(
            f"{what}: found {count} clusters, expected {MINIMUM_IMAGES} or more for an interval; give "
            "more texts, or a column cluster that tells what belongs together"
        )


def clusters_by(texts: datasets.Dataset, column: str) -> dict[str, np.ndarray]:
    """Which clusters of a test text, in the order of `losses`, have each value of a column, such as domain.

    The first entry, "all", has all of them; without a column it is the only one. Raises InputError for a
    column that is not there, a cluster with several values, and a value with too few clusters.
    """
    table = texts.remove_columns("text").to_pandas()
    if column and column not in table:
        raise InputError(f"test text: no column {column}; found {list(table)}; name one of them, or none")
    by_cluster = table.assign(all="all").groupby("cluster", sort=False)[column or "all"]
    if mixed := [name for name, values in by_cluster if values.nunique(dropna=False) > 1]:
        raise InputError(
            f"test text: cluster {mixed[0]!r} has several values of {column}, expected one; texts that "
            "belong together cannot stand on both sides of a comparison"
        )
    values = by_cluster.first().astype(str).to_numpy()
    if column and "all" in values:
        raise InputError(f"test text: column {column} has the value all, which names the whole; rename it")
    masks = {"all": np.full(len(values), True)}
    masks |= {str(value): values == value for value in dict.fromkeys(values) if column}
    for value, mask in masks.items():
        check_clusters(int(mask.sum()), f"test text, {column} {value}" if column else "test text")
    return masks


# A grid of language models: each pretrained once per seed, then tuned in several ways.


UNTUNED = "none"
Grid = Mapping[str, Sequence[str]]  # the tunings of each pretraining, by name


class TextModel(NamedTuple):
    """A cell of the grid: what a model was pretrained on, and what it was tuned on after."""

    pretraining: str
    tuning: str = UNTUNED

    def __str__(self) -> str:
        """As P1 writes it, such as GPT2-Syn (RealTune)."""
        return self.pretraining if self.tuning == UNTUNED else f"{self.pretraining} ({self.tuning})"


def models_of(grid: Grid) -> list[TextModel]:
    """Every model of a grid, each pretraining before its tunings."""
    return [TextModel(base, tuning) for base, tunings in grid.items() for tuning in (UNTUNED, *tunings)]


class LossEstimates:
    """What models of several seeds lose on the same clusters, and intervals of it.

    A model's value is the mean over its seeds; see `crossed_estimate`. Clusters are drawn with
    replacement. All models share the draws, and differences are taken seed by seed, so that they are paired.
    """

    def __init__(
        self,
        tables: Mapping[TextModel, Sequence[pd.DataFrame]],
        draws: int = 2000,
        seed: int = 0,
        mask: np.ndarray | None = None,
    ) -> None:
        """tables: `losses` of each model, one for each seed. mask: the clusters to count, by default all."""
        chosen = slice(None) if mask is None else mask
        first = next(iter(tables.values()))[0][chosen]
        self.clusters, self.texts = len(first), int(first["texts"].sum())
        check_clusters(self.clusters)
        nats = [np.stack([table["nats"][chosen] for table in by_seed], 1) for by_seed in tables.values()]
        columns = np.concatenate([first[["tokens", "bytes"]].to_numpy(), *nats], 1)
        # row 0 of all that follows is the text itself, the other rows are draws
        sums = np.vstack([columns.sum(0), resampled_sums(columns.astype(np.float32), draws, seed)])
        self.tokens, self.bytes = sums[:, :1], sums[:, 1:2]
        self._nats = dict(zip(tables, np.split(sums[:, 2:], len(tables), axis=1), strict=True))

    def loss(self, model: TextModel) -> Estimate:
        """Nats per token."""
        return self._estimate(self._nats[model] / self.tokens)

    def perplexity(self, model: TextModel) -> Estimate:
        """exp of the loss: among how many tokens the model is torn, at an even chance."""
        loss = self.loss(model)
        value, low, high = np.exp([loss.value, loss.ci_low, loss.ci_high]).tolist()
        return Estimate(value, low, high, loss.seeds)

    def bits_per_byte(self, model: TextModel) -> Estimate:
        """What a byte of the text costs when it is packed with the model; the same for any tokenizer."""
        return self._estimate(self._nats[model] / self.bytes / np.log(2))

    def difference(self, model: TextModel, other: TextModel) -> Estimate:
        """Loss of `model` minus loss of `other`."""
        return self._estimate((self._nats[model] - self._nats[other]) / self.tokens)

    def _estimate(self, values: np.ndarray) -> Estimate:
        """values: [1 + draws, seeds]."""
        images = drawn_variance(values[1:].mean(axis=1), self.clusters)
        return crossed_estimate(values[0], images)


@dataclass(frozen=True)
class TextTraining:
    """How large, how long, how often."""

    architecture: str  # see `gpt2_config`
    context: int  # tokens that a model sees at once
    pretraining: Recipe
    tuning: Recipe
    method: Method = "full"
    seeds: tuple[int, ...] = (0, 1, 2)  # each with its own texts, first weights and order
    evaluations: int = 4  # of the validation loss, while a model is tuned

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
class TextSets:
    """Text to learn from, to choose settings by, and to judge with."""

    real: datasets.Dataset
    synthetic: datasets.Dataset
    validation: datasets.Dataset
    test: datasets.Dataset

    def check(self) -> None:
        """Raises InputError when text to learn from, or to choose settings by, is also text to judge with."""
        training = {"the real text": self.real, "the synthetic text": self.synthetic}
        validation, test = {"the validation text": self.validation}, {"the test text": self.test}
        for learned, judged in ((training, validation | test), (validation, test)):
            check_apart(learned, judged)
            check_disjoint(_texts_of(learned), _texts_of(judged))


def _texts_of(sets: Mapping[str, datasets.Dataset]) -> dict[str, Sequence[str]]:
    return {name: texts["text"] for name, texts in sets.items()}


@dataclass(frozen=True)
class TrainedGrid:
    """All models of a grid: losses on the test text (a table per seed), and curves of tuning."""

    losses: dict[TextModel, list[pd.DataFrame]]
    curves: pd.DataFrame  # pretraining, tuning, seed, step, loss (on validation text)
    folders: dict[TextModel, list[Path]]


def run_grid(
    training: TextTraining,
    grid: Grid,
    text_of: Callable[[int], Mapping[str, Tensor]],
    sets: TextSets,
    tokenizer: PreTrainedTokenizerFast,
    work: Path,
    workers: int = 1,
) -> TrainedGrid:
    """Train what is not yet there below `work`, and score it on the test text.

    text_of: for a seed, the rows that each pretraining and each tuning learns from, by its name in the grid.
    A pretraining without tunings gets their steps too, so that it learns as long as the others. `workers`
    train side by side; a script launched as several processes, which train each network together, takes 1.
    """
    if workers > 1 and processes().num_processes > 1:
        raise InputError(f"workers: found {workers} in a launch of several processes, expected 1")
    training.check(gpt2_config(training.architecture, tokenizer))
    sets.check()
    validation, test = (
        held_out(texts, tokenizer, training.context) for texts in (sets.validation, sets.test)
    )
    check_clusters(len(test.size))
    rows = {seed: text_of(seed) for seed in training.seeds}
    for named in rows.values():
        _check_named(grid, named)
    jobs = [(seed, base) for base in grid for seed in training.seeds]
    train = delayed(_train_family)
    families = side_by_side(workers)(
        train(training, base, grid[base], rows[seed], tokenizer, seed, validation, test, work)
        for seed, base in jobs
    )
    folders: dict[TextModel, list[Path]] = {model: [] for model in models_of(grid)}
    for family in families:
        for model, folder in family.items():
            folders[model].append(folder)
    scores = {model: [scored(folder, test) for folder in by_seed] for model, by_seed in folders.items()}
    return TrainedGrid(scores, _curves(folders, training.seeds), folders)


def _check_named(grid: Grid, rows: Mapping[str, Tensor]) -> None:
    wanted = {*grid, *(tuning for tunings in grid.values() for tuning in tunings)}
    if missing := sorted(wanted - rows.keys()):
        raise InputError(f"grid: no text for {missing}, found text for {sorted(rows)}; name them alike")


def _curves(folders: Mapping[TextModel, Sequence[Path]], seeds: Sequence[int]) -> pd.DataFrame:
    curves = [
        pd.read_csv(folder / "curve.csv").assign(**model._asdict(), seed=seed)
        for model, by_seed in folders.items()
        for seed, folder in zip(seeds, by_seed, strict=True)
        if model.tuning != UNTUNED
    ]
    return pd.concat(curves, ignore_index=True) if curves else pd.DataFrame()


def _train_family(
    training: TextTraining,
    base: str,
    tunings: Sequence[str],
    rows: Mapping[str, Tensor],
    tokenizer: PreTrainedTokenizerFast,
    seed: int,
    validation: HeldOutText,
    test: HeldOutText,
    work: Path,
) -> dict[TextModel, Path]:
    """A pretrained model and what is tuned from it: their folders, each scored."""
    config = gpt2_config(training.architecture, tokenizer)
    steps = training.pretraining.steps + (0 if tunings else training.tuning.steps)
    start = pretrained(config, rows[base], replace(training.pretraining, steps=steps, seed=seed), work)
    every = max(1, training.tuning.steps // training.evaluations)
    hook = EvalHook(lambda m: {"loss": mean_loss(m, validation)}, digest(validation.rows), every)
    recipe = replace(training.tuning, seed=seed)
    folders = {TextModel(base): start}
    for tuning in tunings:
        folder = tuned(start, rows[tuning], training.method, recipe, work, hook)
        folders[TextModel(base, tuning)] = folder
    for folder in folders.values():
        scored(folder, test)
    return folders


# Texts drawn from a set, each once.


def equal_texts(
    sets: TextSets, counts: Sequence[int], tokenizer: PreTrainedTokenizerFast, seed: int
) -> list[tuple[list[Tokens], list[Tokens]]]:
    """For each count, so many real and so many synthetic texts, with as many tokens in all.

    The seed draws them, and no text stands in two of the lists. Raises InputError where a set has too few.
    """
    real, synthetic = (
        encode(texts.select(_order(texts, sum(counts), seed, name))["text"][:], tokenizer)
        for texts, name in ((sets.real, "the real text"), (sets.synthetic, "the synthetic text"))
    )
    ends = np.cumsum(counts)
    slices = [slice(end - count, end) for end, count in zip(ends, counts, strict=True)]
    return [cut_alike(real[chosen], synthetic[chosen]) for chosen in slices]


def unseen(texts: datasets.Dataset, used: int, count: int, seed: int, name: str) -> datasets.Dataset:
    """So many texts of a set behind the first `used`, which `equal_texts` draws for the same seed."""
    return texts.select(_order(texts, used + count, seed, name)[used:])


def some_of(texts: datasets.Dataset, count: int, seed: int) -> datasets.Dataset:
    """So many texts of a set, or all where there are fewer, in the set's order."""
    order = np.random.default_rng(seed).permutation(len(texts))[:count]
    return texts.select(np.sort(order))


def _order(texts: datasets.Dataset, count: int, seed: int, name: str) -> np.ndarray:
    """The first `count` rows in the seed's order."""
    if len(texts) < count:
        raise InputError(
            f"{name}: found {len(texts):,} texts, expected {count:,} different ones; ask for fewer"
        )
    return np.random.default_rng(seed).permutation(len(texts))[:count]
