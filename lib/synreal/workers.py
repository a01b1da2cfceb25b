"""Processes that work side by side: as many as asked for, or fewer where the machine is shared."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from joblib import Parallel

from synreal.errors import InputError

LIMIT = "SYNREAL_WORKERS"


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


@contextmanager
def one_thread() -> Iterator[None]:
    """torch computes on one thread: the number of workers then changes no result."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
