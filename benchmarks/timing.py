"""What benchmarks of work on image sets share."""

import time
from collections.abc import Callable

import datasets


def rate(work: Callable[[datasets.Dataset], object], images: datasets.Dataset) -> float:
    """Images per second, the best of three, after a first call."""
    work(images.select(range(8)))
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        work(images)
        seconds.append(time.perf_counter() - start)
    return len(images) / min(seconds)
