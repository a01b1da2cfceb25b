"""The state of a training run on disk, from which it goes on."""

import json
import os
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any

import torch

from synreal.errors import InputError
from synreal.train.recipes import Recipe


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
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".partial")
        torch.save(self._taken, partial)
        partial.replace(self.path)
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
    write_whole(file, json.dumps(inputs, indent=1))


def write_whole(file: Path, text: str) -> None:
    """The file appears under its name only when it is complete."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    partial.write_text(text, encoding="utf-8")
    partial.replace(file)


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
