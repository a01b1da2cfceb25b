"""The training loop and its batches; resumes from any step."""

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import trange

from synreal.errors import InputError
from synreal.train.recipes import Recipe
from synreal.train.state import Curve, State, processes

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


# The one training loop: every model of the book, of any kind, is trained by `fit`.


# (model, rows or what `fetch` made of them, generator) -> mean loss
Loss = Callable[[Any, Any, torch.Generator], Tensor]


class Diverged(InputError):
    """The loss or its gradient is no longer finite."""


def fit(
    model: nn.Module,
    loss: Loss,
    count: int,
    recipe: Recipe,
    folder: Path | None = None,
    title: str = "train",
    fetch: Fetch | None = None,
    curve: Curve | None = None,
) -> list[float]:
    """Train `model` in place and return the loss of every step since the start of this call.

    Accelerate places the model on the GPU where there is one; it comes back on the CPU, in eval mode. Parts
    of it without anything to train are in eval mode throughout.
    `loss(model, rows, generator)` computes the mean loss on the given rows (of `count`); its randomness comes
    from `generator`, and the network's own (dropout) is seeded with it, so that a step depends on the seed
    and its number alone. With `fetch(rows, generator)`, which worker processes run ahead, the loss gets what
    that returns in place of rows. `curve` takes up the losses and what is watched.
    With a `folder`, the whole state is kept there every `checkpoint_every` steps and an interrupted run goes
    on from it, to the identical result with as many processes; a folder that holds another recipe is refused.

    Raises InputError as `processes` does and for fewer rows in a step than processes; Diverged when the loss
    or its gradient is no longer finite, before that step changes the model; the last state kept is named.
    """
    together = processes()
    batches = Batches(count, recipe, fetch, together.process_index, together.num_processes)
    run = _Run(model, loss, recipe, folder, curve or Curve())
    ahead = batches.ahead(run.start, pinned=run.device.type == "cuda")
    losses: list[float] = []
    with run.own_random_state():
        run.look(last=run.start == recipe.steps)
        # said only where it is so: the variable TQDM_DISABLE decides otherwise
        hidden = {} if run.main else {"disable": True}
        for step in trange(run.start, recipe.steps, desc=title, mininterval=5, **hidden):
            losses.append(run.step(step, batches.shares(step), ahead))
            run.look(last=step + 1 == recipe.steps)
            if (step + 1) % recipe.checkpoint_every == 0:
                run.take(step + 1)
    run.finish()
    return losses


class _Run:
    """A model with all that trains it, on its device."""

    def __init__(
        self, model: nn.Module, loss: Loss, recipe: Recipe, folder: Path | None, curve: Curve
    ) -> None:
        self.accelerator = Accelerator()
        self.device, self.main = self.accelerator.device, self.accelerator.is_main_process
        self.model, self.loss, self.recipe, self.folder, self.curve = model, loss, recipe, folder, curve
        model.to(memory_format=torch.channels_last)  # in which convolutions are faster, here and on GPUs
        optimizer = _optimizer(model, recipe)
        self.scheduler = LambdaLR(optimizer, lambda step: _share_of_rate(step, recipe))
        self.ema = _average(model, recipe.ema_decay) if recipe.ema_decay else None
        parts = {"model": model, "optimizer": optimizer, "scheduler": self.scheduler, "ema": self.ema}
        self._state = State(parts | {"curve": curve}, recipe, folder)
        self.start = self._state.resume()
        self.wrapped, self.optimizer = self.accelerator.prepare(model, optimizer)
        if self.ema:
            self.ema.to(self.device)
        _training_mode(model)

    def own_random_state(self) -> Any:
        """A context that leaves the caller's random state as it was."""
        return torch.random.fork_rng([self.device] if self.device.type == "cuda" else [])

    def step(self, step: int, shares: list[float], ahead: Iterator[Any]) -> float:
        """One update from the next parts of the data, each with its share in the loss."""
        generator = _step_generator(self.recipe.seed, step, self.accelerator)
        self._seed(generator.initial_seed())
        total = torch.zeros((), device=self.device)
        for part, share in enumerate(shares, start=1):
            last = part == len(shares)
            with nullcontext() if last else self.accelerator.no_sync(self.wrapped):
                total += self._backward(next(ahead), share, generator)
        value = self._finite(self.accelerator.reduce(total, "mean"), "loss", step)
        norm = self.accelerator.clip_grad_norm_(self.wrapped.parameters(), self.recipe.clip_norm)
        self._finite(norm, "norm of the gradient", step)
        self._state.write()
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad()
        if self.ema:
            self.ema.step(self.model.parameters())
        self.curve.losses.append(value)
        return value

    def _seed(self, seed: int) -> None:
        # torch.manual_seed visits every kind of device there is: a twentieth of a small network's step
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def _backward(self, batch: Any, share: float, generator: torch.Generator) -> Tensor:
        # accelerate's own mixed precision is fixed for the life of a process, a recipe's is not
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.precision == "bf16"):
            value = self.loss(self.wrapped, batch, generator) * share
        self.accelerator.backward(value)
        return value.detach()

    def _finite(self, value: Tensor, name: str, step: int) -> float:
        number = float(value)
        if not math.isfinite(number):
            raise Diverged(
                f"training diverged: the {name} is {number} at step {step}; lower learning_rate{self._kept()}"
            )
        return number

    def _kept(self) -> str:
        if self.folder is None:
            return ""
        return (
            f"; the last good state is in {self.folder}"
            if self._state.exists()
            else "; no state was kept yet"
        )

    def look(self, last: bool) -> None:
        """Watch the model, if it is time to."""
        if self.main and self.curve.due(last):
            with self._as_returned(), torch.no_grad():
                self.curve.look(self.model)

    def take(self, step: int) -> None:
        """Note the state after `step` steps, to be written once it is known to be good."""
        if self.main:
            self._state.take(step)

    def finish(self) -> None:
        """Write the last state, and leave the model as it is returned."""
        self.take(self.recipe.steps)
        self._state.write()
        if self.ema:
            self.ema.copy_to(self.model.parameters())
        self.model.cpu().eval()

    @contextmanager
    def _as_returned(self) -> Iterator[None]:
        self.model.eval()
        if self.ema:
            self.ema.store(self.model.parameters())
            self.ema.copy_to(self.model.parameters())
        yield
        if self.ema:
            self.ema.restore(self.model.parameters())
        _training_mode(self.model)


def device_of(model: nn.Module) -> torch.device:
    """Where a loss sends its batch: data stay on the CPU until their step."""
    return next(model.parameters()).device


def _training_mode(model: nn.Module) -> None:
    """Train mode, but for the parts that are frozen: no dropout there, and batch statistics as they were."""
    model.train()
    for part in model.modules():
        weights = list(part.parameters())
        if weights and not any(weight.requires_grad for weight in weights):
            part.eval()


def _optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    trained = [p for p in model.parameters() if p.requires_grad]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(
            trained, lr=recipe.learning_rate, momentum=0.9, weight_decay=recipe.weight_decay
        )
    return torch.optim.AdamW(
        trained, lr=recipe.learning_rate, betas=recipe.betas, weight_decay=recipe.weight_decay, fused=True
    )


def _share_of_rate(step: int, recipe: Recipe) -> float:
    """Linear warm-up from 0 to 1, then half a cosine back to 0."""
    if step < recipe.warmup_steps:
        return step / recipe.warmup_steps
    progress = (step - recipe.warmup_steps) / max(1, recipe.steps - recipe.warmup_steps)
    return max(0.0, 0.5 * (1 + math.cos(math.pi * progress)))


def _average(model: nn.Module, decay: float) -> Any:
    # imported here because it brings all of diffusers: seconds that few trainings need
    from diffusers.training_utils import EMAModel

    return EMAModel(model.parameters(), decay=decay)


def _step_generator(seed: int, step: int, accelerator: Accelerator) -> torch.Generator:
    processes = accelerator.num_processes
    return torch.Generator().manual_seed((seed * 1_000_003 + step) * processes + accelerator.process_index)
