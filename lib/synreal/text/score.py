"""Loss on held-out text, cluster by cluster, with intervals over clusters and seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from synreal.errors import InputError
from synreal.evaluate.repeated import Estimate, crossed_estimate
from synreal.evaluate.statistics import MINIMUM_IMAGES, resampled_sums
from synreal.text.gpt2 import fastest_device, load_gpt2
from synreal.text.rows import encode, pack
from synreal.text.train import digest, token_losses
from synreal.train.processes import processes

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
