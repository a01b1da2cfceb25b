"""The one training loop: every model of the book, of any kind, is trained by `fit`."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from tqdm.auto import trange

from synreal.errors import InputError

Loss = Callable[[Any, Tensor, torch.Generator], Tensor]


@dataclass(frozen=True)
class Recipe:
    """How to train; the defaults are those of a small model trained from scratch."""

    steps: int
    batch_size: int = 128  # images per step, over all processes
    learning_rate: float = 1e-3
    optimizer: Literal["adamw", "sgd"] = "adamw"
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.999)  # of AdamW; SGD uses momentum 0.9
    warmup_steps: int = 100  # then a cosine down to zero
    clip_norm: float = 1.0
    ema_decay: float | None = None  # average the weights, and return the average
    precision: Literal["no", "bf16"] = "no"
    checkpoint_every: int = 250  # steps
    seed: int = 0


def fit(
    model: nn.Module, loss: Loss, count: int, recipe: Recipe, folder: Path | None = None, title: str = "train"
) -> list[float]:
    """Train `model` in place and return the loss of every step since the start of this call.

    Accelerate places the model on the GPU where there is one; it comes back on the CPU, in eval mode.
    `loss(model, rows, generator)` computes the mean loss on the given rows (of `count`); its randomness comes
    from `generator`, so that a step depends on the seed and its number alone. With a `folder`, the whole
    state is kept there every `checkpoint_every` steps and an interrupted run goes on from it to the identical
    result; a folder that holds another recipe is refused.

    Raises InputError when the loss is no longer finite; the last state kept is named.
    """
    accelerator = Accelerator()
    optimizer = _optimizer(model, recipe)
    scheduler = get_scheduler(
        "cosine", optimizer, num_warmup_steps=recipe.warmup_steps, num_training_steps=recipe.steps
    )
    ema = EMAModel(model.parameters(), decay=recipe.ema_decay) if recipe.ema_decay else None
    parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "ema": ema}
    state = _State(parts, recipe, folder)
    start = state.resume()
    wrapped, optimizer = accelerator.prepare(model, optimizer)
    if ema:
        ema.to(accelerator.device)
    model.train()
    losses, main = [], accelerator.is_main_process
    for step in trange(start, recipe.steps, desc=title, mininterval=5, disable=not main):
        rows = batch_rows(step, count, recipe)[accelerator.process_index :: accelerator.num_processes]
        # accelerate's own mixed precision is fixed for the life of a process, a recipe's is not
        with torch.autocast(accelerator.device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
            value = loss(wrapped, rows, _step_generator(recipe.seed, step, accelerator))
        accelerator.backward(value)
        accelerator.clip_grad_norm_(wrapped.parameters(), recipe.clip_norm)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        if ema:
            ema.step(model.parameters())
        losses.append(_finite(value, step, folder))
        if main and (step + 1) % recipe.checkpoint_every == 0:
            state.keep(step + 1)
    if main:
        state.keep(recipe.steps)
    if ema:
        ema.copy_to(model.parameters())
    model.cpu().eval()
    return losses


def device_of(model: nn.Module) -> torch.device:
    """Where a loss sends its batch: data stay on the CPU until their step."""
    return next(model.parameters()).device


def batch_rows(step: int, count: int, recipe: Recipe) -> Tensor:
    """The rows of one step: every epoch is a fresh permutation, set by the seed and the epoch alone."""
    size = min(recipe.batch_size, count)
    per_epoch = count // size
    order = torch.randperm(
        count, generator=torch.Generator().manual_seed(recipe.seed * 100_003 + step // per_epoch)
    )
    first = step % per_epoch * size
    return order[first : first + size]


class _State:
    """Everything a resumed run needs, kept in one file that is replaced in one move."""

    def __init__(self, parts: dict[str, Any], recipe: Recipe, folder: Path | None) -> None:
        self.parts = {name: part for name, part in parts.items() if part is not None}
        self.recipe, self.path = _plain(asdict(recipe)), folder and folder / "state.pt"

    def keep(self, step: int) -> None:
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        state = {name: part.state_dict() for name, part in self.parts.items()}
        partial = self.path.with_suffix(".partial")
        torch.save({"step": step, "recipe": self.recipe, **state}, partial)
        partial.replace(self.path)

    def resume(self) -> int:
        if self.path is None or not self.path.exists():
            return 0
        state = torch.load(self.path, weights_only=True)
        if state["recipe"] != self.recipe:
            changed = [k for k, v in self.recipe.items() if state["recipe"].get(k) != v]
            raise InputError(
                f"{self.path}: holds a run with another recipe ({', '.join(changed)} differ); "
                "finish it with its own recipe, or delete the file to start anew"
            )
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        return state["step"]


def _optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    trained = [p for p in model.parameters() if p.requires_grad]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(
            trained, lr=recipe.learning_rate, momentum=0.9, weight_decay=recipe.weight_decay
        )
    return torch.optim.AdamW(
        trained, lr=recipe.learning_rate, betas=recipe.betas, weight_decay=recipe.weight_decay
    )


def _plain(values: dict) -> dict:
    return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


def _step_generator(seed: int, step: int, accelerator: Accelerator) -> torch.Generator:
    processes = accelerator.num_processes
    return torch.Generator().manual_seed((seed * 1_000_003 + step) * processes + accelerator.process_index)


def _finite(value: Tensor, step: int, folder: Path | None) -> float:
    number = float(value.detach())
    if number != number or abs(number) == float("inf"):
        kept = f"; the last good state is in {folder}" if folder else ""
        raise InputError(f"training diverged: the loss is {number} at step {step}; lower learning_rate{kept}")
    return number
