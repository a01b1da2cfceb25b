"""Many small trainings side by side, each kept as soon as it is done."""

import io
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from typing import Any

import numpy as np
from joblib import Memory

from synreal.paths import cache_dir
from synreal.workers import compute, one_thread


def kept(function: Callable[..., np.ndarray], jobs: Sequence[tuple], workers: int = 2) -> list[np.ndarray]:
    """`function(*job)` for each job, in their order; what was computed before is read from the cache.

    Results are kept under the hashes of the job's arrays and values and of the function's source. Every job
    runs on one thread, so that the number of workers does not change a result.
    """
    remembered = Memory(cache_dir() / "trainings", verbose=0).cache(function)
    return compute(_quietly, [(remembered, job) for job in jobs], workers)


def _quietly(function: Callable[..., np.ndarray], job: tuple[Any, ...]) -> np.ndarray:
    # progress bars of dozens of trainings would fill a page
    with one_thread(), redirect_stderr(io.StringIO()):
        return function(*job)
