"""Processes that work side by side: as many as asked for, or fewer where the machine is shared."""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from joblib import Parallel, delayed

from synreal.errors import InputError

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
