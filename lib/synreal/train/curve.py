"""What is seen of a model while it is trained."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from torch import nn

from synreal.train.processes import processes
from synreal.train.state import write_whole

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
        write_whole(folder / LOSS_FILE, losses.to_csv(index=False))
        write_whole(folder / CURVE_FILE, self.table().to_csv(index=False))
