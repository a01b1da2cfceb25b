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

    def keep(self, step: int) -> None:
        """Write the state after `step` steps; nothing without a folder."""
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        state = {name: part.state_dict() for name, part in self.parts.items()}
        partial = self.path.with_suffix(".partial")
        torch.save({"step": step, "recipe": self.recipe, **state}, partial)
        partial.replace(self.path)

    def resume(self) -> int:
        """Load what is kept and return its step; 0 where there is nothing. InputError for another recipe."""
        if self.path is None or not self.path.exists():
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


def check_same_run(folder: Path | None, inputs: dict[str, Any]) -> None:
    """Note in the folder what the run is made of. InputError when it holds a run of something else."""
    if folder is None:
        return
    file = folder / "run.json"
    if not file.exists():
        write_whole(file, json.dumps(inputs, indent=1))
        return
    kept = json.loads(file.read_text())
    changed = [
        f"{n} ({kept.get(n)}, now {inputs.get(n)})" for n in kept | inputs if kept.get(n) != inputs.get(n)
    ]
    if changed:
        raise InputError(
            f"{folder}: holds a run made from other inputs: {', '.join(changed)}; "
            "finish it with its own, or name another folder"
        )


def write_whole(file: Path, text: str) -> None:
    """The file appears under its name only when it is complete."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    partial.write_text(text, encoding="utf-8")
    partial.replace(file)


def _plain(values: dict) -> dict:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


_DEFAULTS = _plain({field.name: field.default for field in fields(Recipe) if field.default is not MISSING})
