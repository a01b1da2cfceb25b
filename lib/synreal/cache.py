"""What is expensive is computed once, and by several processes side by side."""

import io
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from typing import Any, TypeVar

import numpy as np
import torch
from joblib import Memory, Parallel, delayed

from synreal.errors import InputError
from synreal.paths import cache_dir

LIMIT = "SYNREAL_WORKERS"
Result = TypeVar("Result")


def side_by_side(workers: int, **options: Any) -> Parallel:
    """joblib's Parallel of `workers` processes, or of as many as the variable `SYNREAL_WORKERS` allows.

    The variable is for several runs on one machine. One worker is the calling process itself, with all its
    threads. `options` are Parallel's own.
    Raises InputError when the variable is not a whole number of at least 1.
    """
    allowed = os.environ.get(LIMIT) or str(workers)
    if not allowed.isdecimal() or int(allowed) < 1:
        raise InputError(f"{LIMIT}: is {allowed!r}, expected a whole number of at least 1")
    return Parallel(n_jobs=min(workers, int(allowed)), **options)


def compute(
    function: Callable[..., Result], jobs: Iterable[tuple[Any, ...]], workers: int = 1
) -> list[Result]:
    """`function(*job)` of each job, in their order, by `workers` processes (see `side_by_side`).

    With more than one asked for, every job computes on one thread, so that their number changes no result.
    On a machine with a GPU, which a forked process cannot use, they are fresh processes with all threads.
    """
    if workers == 1 or torch.accelerator.is_available():
        return list(side_by_side(workers)(delayed(function)(*job) for job in jobs))
    # Forked, since importing torch and the rest costs a fresh process more than most jobs do.
    parallel = side_by_side(workers, backend="multiprocessing")
    return list(parallel(delayed(_on_one_thread)(function, job) for job in jobs))


def _on_one_thread(function: Callable[..., Result], job: tuple[Any, ...]) -> Result:
    with one_thread():
        return function(*job)


@contextmanager
def one_thread() -> Iterator[None]:
    """torch computes on one thread: the number of workers then changes no result."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# Many small trainings side by side, each kept as soon as it is done.


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
