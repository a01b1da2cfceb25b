"""Which rows a step sees, and batches that are fetched ahead by worker processes."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from synreal.errors import InputError
from synreal.train.recipes import Recipe

Fetch = Callable[[Tensor, torch.Generator], Any]  # rows to a batch; it runs in a worker process


def batch_rows(step: int, count: int, recipe: Recipe) -> Tensor:
    """The rows of one step: every epoch is a fresh permutation, set by the seed and the epoch alone."""
    size = min(recipe.batch_size, count)
    per_epoch = count // size
    order = torch.randperm(
        count, generator=torch.Generator().manual_seed(recipe.seed * 100_003 + step // per_epoch)
    )
    first = step % per_epoch * size
    return order[first : first + size]


@dataclass(frozen=True)
class Batches(Dataset):
    """The parts of every step of one process, in order; each is a function of seed, step and part alone.

    Raises InputError for fewer rows in a step than processes.
    """

    count: int
    recipe: Recipe
    fetch: Fetch | None = None
    process: int = 0
    processes: int = 1

    def __post_init__(self) -> None:
        if self.size < self.processes:
            raise InputError(
                f"batch_size: found {self.size} rows in a step (of {self.count}), expected one or more for "
                f"each of the {self.processes} processes"
            )

    @property
    def size(self) -> int:
        """Rows of a step, over all processes."""
        return min(self.recipe.batch_size, self.count)

    def rows(self, step: int) -> tuple[Tensor, ...]:
        """The step's rows of this process, split into what goes through the network at once."""
        rows = batch_rows(step, self.count, self.recipe)[self.process :: self.processes]
        return rows.split(self.recipe.micro_batch or len(rows))

    def shares(self, step: int) -> list[float]:
        """How much of the step's rows each part holds, times the processes.

        Gradients are averaged over processes, and so are those of all rows, where these hold unequal numbers.
        """
        return [len(part) * self.processes / self.size for part in self.rows(step)]

    def __getitem__(self, place: tuple[int, int]) -> Any:
        """What `fetch` makes of part `place[1]` of step `place[0]`. Bad input is returned, for `ahead` to
        raise: a worker would bury the message in a traceback."""
        step, part = place
        key = [self.recipe.seed, step, self.process, part]
        seed = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)
        assert self.fetch is not None
        try:
            return self.fetch(self.rows(step)[part], torch.Generator().manual_seed(seed))
        except InputError as error:
            return error

    def ahead(self, start: int, pinned: bool) -> Iterator[Any]:
        """The parts from step `start` on, their rows or what `fetch` makes of them, ahead of their use."""
        places = [(s, p) for s in range(start, self.recipe.steps) for p in range(len(self.rows(0)))]
        if self.fetch is None:
            yield from (self.rows(step)[part] for step, part in places)
            return
        workers = max(1, len(os.sched_getaffinity(0)) // self.processes)
        loader = DataLoader(self, batch_size=None, sampler=places, num_workers=workers, pin_memory=pinned)
        for batch in loader:
            if isinstance(batch, InputError):
                raise batch
            yield batch
