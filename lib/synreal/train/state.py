"""The state of a training: processes, checkpoints on disk, the curve of losses, evaluation on the way."""

import json
import os
from collections.abc import Callable
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pandas as pd
import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env
from datasets import Dataset
from torch import nn

from synreal.cache import atomic, write_text
from synreal.data.decode import decoded, stored_batches
from synreal.data.imageset import class_names
from synreal.errors import InputError
from synreal.models.card import Card
from synreal.models.classifier import Classifier, LinearClassifier, Preprocess
from synreal.models.clip import ZeroShotClassifier
from synreal.train.recipes import Recipe


def processes() -> PartialState:
    """How many processes train together, which of them this is, and means to wait for the others.

    Raises InputError where several were launched that cannot work together: each would take itself for the
    only one.
    """
    # Accelerate's own Accelerator heeds the variable, its PartialState does not
    state = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))
    launched = int(os.environ.get("WORLD_SIZE", 1))
    if launched != state.num_processes:
        raise InputError(
            f"WORLD_SIZE: found {launched}, but these processes cannot find each other (without GPUs?); "
            "launch one, or set ACCELERATE_USE_CPU=true for several on CPUs"
        )
    return state


# The state of a training run on disk, from which it goes on.


class State:
    """Everything a resumed run needs, kept in one file that is replaced in one move."""

    def __init__(self, parts: dict[str, Any], recipe: Recipe, folder: Path | None) -> None:
        self.parts = {name: part for name, part in parts.items() if part is not None}
        self.recipe, self.path = _plain(asdict(recipe)), folder and folder / "state.pt"
        self._taken: dict[str, Any] | None = None

    def exists(self) -> bool:
        """Whether a state is kept."""
        return self.path is not None and self.path.exists()

    def take(self, step: int) -> None:
        """Copy the state after `step` steps. It is written when the next loss has shown that it is good."""
        if self.path is not None:
            state = {name: part.state_dict() for name, part in self.parts.items()}
            self._taken = _copied({"step": step, "recipe": self.recipe, **state})

    def write(self) -> None:
        """Write the state taken last, if it is not written yet."""
        if self.path is None or self._taken is None:
            return
        with atomic(self.path) as partial:
            torch.save(self._taken, partial)
        self._taken = None

    def resume(self) -> int:
        """Load what is kept and return its step; 0 where there is nothing. InputError for another recipe."""
        if self.path is None or not self.exists():
            return 0
        state = torch.load(self.path, map_location="cpu", weights_only=True)
        kept = _DEFAULTS | state["recipe"]  # a state may be older than a field
        if kept != self.recipe:
            changed = [name for name, value in self.recipe.items() if kept.get(name) != value]
            raise InputError(
                f"{self.path}: holds a run with another recipe ({', '.join(changed)} differ); "
                "finish it with its own recipe, or delete the file to start anew"
            )
        for name, part in self.parts.items():
            if name in state:
                part.load_state_dict(state[name])
        return state["step"]


def check_same_run(file: Path, inputs: dict[str, Any]) -> None:
    """Raises InputError unless the run noted in `file` was made from these inputs."""
    if not file.exists():
        raise InputError(
            f"{file.parent}: holds no {file.name}, so what is there was not made here; name another folder"
        )
    kept, now = (_flat(values) for values in (json.loads(file.read_text()), json.loads(json.dumps(inputs))))
    changed = [name for name in kept | now if kept.get(name) != now.get(name)]
    if changed:
        told = ", ".join(f"{name} {kept.get(name)}, now {now.get(name)}" for name in changed)
        raise InputError(
            f"{file.parent}: holds a run made from other inputs: {told}; finish it with its own, or name "
            "another folder"
        )


def note_run(file: Path, inputs: dict[str, Any]) -> None:
    """Note in `file` what a run is made of; raises InputError when it names something else."""
    if file.exists():
        check_same_run(file, inputs)
    write_text(file, json.dumps(inputs, indent=1))


def _copied(value: Any) -> Any:
    """The same nested value, with tensors copied to the CPU."""
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().clone()
    if isinstance(value, dict):
        return type(value)((name, _copied(part)) for name, part in value.items())
    return [_copied(part) for part in value] if isinstance(value, list) else value


def _plain(values: dict) -> dict:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


_DEFAULTS = _plain({field.name: field.default for field in fields(Recipe) if field.default is not MISSING})


def _flat(values: dict[str, Any]) -> dict[str, Any]:
    """Nested values by dotted names."""
    inner = {f"{n}.{k}": v for n, part in values.items() if isinstance(part, dict) for k, v in part.items()}
    return {name: value for name, value in values.items() if not isinstance(value, dict)} | inner


# What is seen of a model while it is trained.


CURVE_FILE, LOSS_FILE = "curve.csv", "losses.csv"
Watch = Callable[[nn.Module], dict[str, float]]


class Curve:
    """The loss of every step, and what `watch(model)` returns before, after and every `every` steps.

    The model is in eval mode then, on its device, with the weights that training would return at that step.
    A resumed run has the whole curve.
    """

    def __init__(self, watch: Watch | None = None, every: int | None = None) -> None:
        self.losses: list[float] = []
        self.looks: list[dict[str, float]] = []
        self._watch, self._every = watch, every

    def due(self, last: bool) -> bool:
        """Whether to look now; `last`: training ends here."""
        step = len(self.losses)
        seen = bool(self.looks) and self.looks[-1]["step"] == step
        wanted = step == 0 or last or (self._every is not None and step % self._every == 0)
        return self._watch is not None and wanted and not seen

    def look(self, model: nn.Module) -> None:
        """Add a row to the curve."""
        assert self._watch is not None
        self.looks.append({"step": len(self.losses)} | self._watch(model))

    def table(self) -> pd.DataFrame:
        """One row per look: step, and the values of `watch`."""
        return pd.DataFrame(self.looks, columns=None if self.looks else ["step"])

    def state_dict(self) -> dict[str, Any]:
        """As PyTorch's parts have it, so that the curve is kept with them."""
        return {"losses": list(self.losses), "looks": [dict(look) for look in self.looks]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a kept curve."""
        self.losses[:], self.looks[:] = state["losses"], state["looks"]

    def write(self, folder: Path) -> None:
        """Save the looks as curve.csv and the losses as losses.csv; one process alone has looked."""
        if not processes().is_main_process:
            return
        losses = pd.DataFrame({"step": range(1, len(self.losses) + 1), "loss": self.losses})
        write_text(folder / LOSS_FILE, losses.to_csv(index=False))
        write_text(folder / CURVE_FILE, self.table().to_csv(index=False))


# What a classifier can be watched for while it is tuned.


BATCH = 256


def accuracy_watch(card: Card, images: Dataset, name: str = "accuracy") -> Watch:
    """A watch of top-1 accuracy (0..1) on `images`, among their classes, for `tune_checkpoint`.

    `card`: of the checkpoint that is tuned. Raises InputError for classes that it does not know.
    """
    names = class_names(images)
    labels = torch.tensor(np.asarray(images.with_format("numpy")["label"][:]))

    def watch(module: nn.Module) -> dict[str, float]:
        classifier = as_classifier(module, card, names)
        batches = ([decoded(row) for row in rows] for rows in stored_batches(images, BATCH))
        found = torch.cat([classifier.logits(batch, BATCH).argmax(1) for batch in batches])
        return {name: float((found == labels).float().mean())}

    return watch


def as_classifier(module: nn.Module, card: Card, names: list[str]) -> Classifier:
    """The network while it is tuned, asked about some of the card's classes."""
    kind = ZeroShotClassifier if isinstance(module, open_clip.CLIP) else LinearClassifier
    return kind(card, module, names, Preprocess.from_card(card))
