"""A grid of experiments: the predictions of every cell, each trained and computed once."""

import hashlib
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from synreal.cache import compute
from synreal.data.overlap import refuse_shared_pixels
from synreal.data.worlds import Pool
from synreal.errors import InputError, shorten
from synreal.models.predictions import Predictions
from synreal.train.dino import knn_logits
from synreal.train.experiment import Run, Stage, outputs, trained
from synreal.train.losses import MEAN
from synreal.train.recipes import Network

Cell = TypeVar("Cell", bound=Hashable)
Readout = Literal["head", "k-NN"]


def dino_pretrainings(pool: Pool, network: Network, seeds: Sequence[int]) -> dict[str, tuple[Run, ...]]:
    """DINO on real ("Real") and synthetic images ("Syn"), as many of each as there are of the rarer kind."""
    count = min(pool.real.sum(), (~pool.real).sum())
    rows = {"Real": np.flatnonzero(pool.real)[:count], "Syn": np.flatnonzero(~pool.real)[:count]}
    return {
        kind: tuple(Run(network, (Stage(pool, chosen, network.dino, "dino"),), seed) for seed in seeds)
        for kind, chosen in rows.items()
    }


def predict_grid(
    grid: Mapping[Cell, Sequence[Run]], test: Pool, workers: int = 1, readout: Readout = "head"
) -> dict[Cell, list[Predictions]]:
    """The predictions of each cell on the images of `test`, one per run; trains what is missing.

    Runs that begin alike share their first stages, and go to one of `workers` processes together (see
    `cache.compute`); on a GPU, take one worker, which is this process. Everything is kept in the cache, so
    that an interrupted call goes on where it stopped.
    readout: the network's own head, or "k-NN", by features without it the vote of the nearest images that
    the last stage learned from.
    Raises InputError when a run ends on other classes than those of `test`, or learns from one of its images.
    """
    runs = [run for cell_runs in grid.values() for run in cell_runs]
    _check_classes(runs, test)
    for pool in {stage.pool for run in runs for stage in run.stages}:
        refuse_shared_pixels(pool.images, test.images)
    missing = [run for run in runs if not _predictions_path(run, test, readout).exists()]
    families = [list(family) for _, family in groupby(sorted(missing, key=_first_key), key=_first_key)]
    compute(_predict_family, [(family, test, readout) for family in families], workers)
    return {
        cell: [Predictions.load(_predictions_path(run, test, readout)) for run in cell_runs]
        for cell, cell_runs in grid.items()
    }


def _check_classes(runs: Sequence[Run], test: Pool) -> None:
    for run in runs:
        if (learned := run.stages[-1].pool).class_names != test.class_names:
            raise InputError(
                f"{learned.name} has the classes {shorten(learned.class_names)}, {test.name} has "
                f"{shorten(test.class_names)}; expected the same in the same order"
            )


def _first_key(run: Run) -> str:
    return replace(run, stages=run.stages[:1]).key


def _predictions_path(run: Run, test: Pool, readout: Readout) -> Path:
    images = hashlib.sha256(test.digests.tobytes() + test.ids.astype("U").tobytes()).hexdigest()[:16]
    return run.folder / f"{readout}-{images}.parquet"


def _predict_family(runs: Sequence[Run], test: Pool, readout: Readout) -> None:
    for run in runs:
        logits = _read(run, test, readout)
        Predictions(
            ids=test.ids,
            labels=test.labels,
            logits=logits.float().cpu().numpy(),
            class_names=test.class_names,
            model=f"{run.network.name} {run.key}",
            model_hash=run.key,
            preprocess_hash=hashlib.sha256(repr(MEAN).encode()).hexdigest()[:16],
            image_set=test.name,
        ).save(_predictions_path(run, test, readout))


def _read(run: Run, test: Pool, readout: Readout) -> Tensor:
    module = trained(run).to(Accelerator().device)
    if readout == "head":
        return outputs(module, test.images)
    stage = run.stages[-1]
    module.reset_classifier(0)  # type: ignore[operator]
    bank, queries = outputs(module, stage.pool.images[stage.rows]), outputs(module, test.images)
    labels = torch.from_numpy(stage.pool.labels[stage.rows])
    return knn_logits(bank.cpu(), labels, queries.cpu(), len(test.class_names))
