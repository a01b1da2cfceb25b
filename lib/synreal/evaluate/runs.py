"""Predictions of networks that are trained in stages: each computed once, several runs side by side."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Literal

import torch
from accelerate import Accelerator
from torch import Tensor

from synreal.data.labels import shorten
from synreal.data.pool import Pool
from synreal.errors import InputError
from synreal.evaluate.predictions import Predictions
from synreal.train.mixed import GREY, Run, outputs, trained
from synreal.train.selfsupervised import knn_logits
from synreal.workers import compute

Readout = Literal["head", "k-NN"]


def predict_runs(
    runs: Sequence[Run], test: Pool, workers: int = 1, readout: Readout = "head"
) -> list[Predictions]:
    """The predictions of each run on the images of `test`, in the order of the runs; trains what is missing.

    Runs that begin alike share their first stages, and go to one of `workers` processes together (see
    `workers.compute`); on a GPU, take one worker, which is this process. Everything is kept in the cache, so
    that an interrupted call goes on where it stopped.
    readout: the network's own head, or "k-NN", by features without it the vote of the nearest images that
    the last stage learned from.
    Raises InputError when a run ends on other classes than those of `test`.
    """
    _check_classes(runs, test)
    missing = [run for run in runs if not _place(run, test, readout).exists()]
    families = [list(family) for _, family in groupby(sorted(missing, key=_first), key=_first)]
    compute(_predict_family, [(family, test, readout) for family in families], workers)
    return [Predictions.load(_place(run, test, readout)) for run in runs]


def _check_classes(runs: Sequence[Run], test: Pool) -> None:
    for run in runs:
        if (learned := run.stages[-1].pool).class_names != test.class_names:
            raise InputError(
                f"{learned.name} has the classes {shorten(learned.class_names)}, {test.name} has "
                f"{shorten(test.class_names)}; expected the same in the same order"
            )


def _first(run: Run) -> str:
    return replace(run, stages=run.stages[:1]).key


def _place(run: Run, test: Pool, readout: Readout) -> Path:
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
            preprocess_hash=hashlib.sha256(repr(GREY).encode()).hexdigest()[:16],
            image_set=test.name,
        ).save(_place(run, test, readout))


def _read(run: Run, test: Pool, readout: Readout) -> Tensor:
    module = trained(run).to(Accelerator().device)
    if readout == "head":
        return outputs(module, test.images)
    stage = run.stages[-1]
    module.reset_classifier(0)  # type: ignore[operator]
    bank, queries = outputs(module, stage.pool.images[stage.rows]), outputs(module, test.images)
    labels = torch.from_numpy(stage.pool.labels[stage.rows])
    return knn_logits(bank.cpu(), labels, queries.cpu(), len(test.class_names))
