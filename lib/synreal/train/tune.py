"""`tune`: change a trained network with a little more data, by any of the methods, images and text alike."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import pandas as pd
from torch import Tensor, nn

from synreal.errors import InputError
from synreal.models.classifier import weights_hash
from synreal.train.batches import Fetch
from synreal.train.curve import LOSS_FILE, Curve, Watch
from synreal.train.loop import Diverged, Loss, fit
from synreal.train.methods import (
    Prefix,
    head_parameters,
    interpolate,
    low_rank,
    only_head,
    snapshot,
    watch_between,
)
from synreal.train.recipes import SCENES_VIT, Recipe, with_steps
from synreal.train.state import note_run

RUN_FILE = "run.json"  # what a run is made of
Method = Literal["full", "head", "lp-ft", "wise-ft", "flyp", "lora"]


@dataclass(frozen=True)
class Tunable:
    """A trained network and the data that it is tuned on."""

    module: nn.Module  # any network; trained in place
    loss: Loss  # (module, rows, generator) -> mean loss on these rows, see `fit`
    count: int  # rows of the tuning data
    head: Prefix  # of the head's parameter names, such as "head" or "lm_head"
    contrastive: Loss | None = None  # flyp's loss, for networks with a text tower
    fetch: Fetch | None = None  # for data that do not fit into memory, see `fit`
    # what else the result depends on, such as a hash of the data; a run with other inputs is not resumed
    inputs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Tuned:
    """What tuning did: the loss of every step, what was watched, and the weights before and after.

    `curve`: one row per look, with step and what `watch(module)` returned. `after` are the weights at the
    last step; wise-ft leaves the module between `before` and `after`.
    """

    losses: list[float]
    curve: pd.DataFrame
    before: dict[str, Tensor]
    after: dict[str, Tensor]


def tune(
    tunable: Tunable,
    method: Method = "full",
    recipe: Recipe = SCENES_VIT,
    folder: Path | None = None,
    watch: Watch | None = None,
    every: int | None = None,
    alpha: float = 0.5,
    probe: Recipe | None = None,
) -> Tuned:
    """Tune the module in place, and return what happened.

    full: all weights. head: the head alone (a linear probe, with the trunk in eval mode). lp-ft: the head,
    then all (Kumar et al. 2022), with half of the steps each; a `probe` recipe trains the head instead, and
    all steps are left to the rest. wise-ft: all, then the weights `alpha` of the way from before to after
    (Wortsman et al. 2022). flyp: all, by the contrastive loss (Goyal et al. 2023). lora: low-rank additions
    to the linear layers, merged at the end, and the head (Hu et al. 2022).

    With a `folder` an interrupted run goes on to the identical result. `watch(module)` looks at the module
    before and after, and every `every` steps.
    Raises InputError for an unknown method, a head or loss that the network lacks, other inputs than the
    folder's, and Diverged as `fit` does.
    """
    check_method(tunable, method)
    before = snapshot(tunable.module)
    settings = {"method": method, "count": tunable.count, "alpha": alpha, "weights": weights_hash(before, "")}
    if folder:
        note_run(folder / RUN_FILE, settings | tunable.inputs)
    if method == "wise-ft" and watch:
        watch = watch_between(before, alpha, watch)
    curve = Curve(watch, every)
    try:
        _train(tunable, method, recipe, folder, curve, probe)
    except Diverged as error:
        where = f"; the losses up to there are in {folder / LOSS_FILE}" if folder else ""
        raise Diverged(f"{error}{where}") from error
    finally:
        if folder:
            curve.write(folder)
    after = snapshot(tunable.module)
    if method == "wise-ft":
        tunable.module.load_state_dict(interpolate(before, after, alpha))
    return Tuned(curve.losses, curve.table(), before, after)


def check_method(tunable: Tunable, method: str) -> None:
    """Raises InputError unless the network can be tuned by the method."""
    if method not in get_args(Method):
        raise InputError(f"method: found {method!r}, expected one of {', '.join(get_args(Method))}")
    if method == "flyp" and tunable.contrastive is None:
        raise InputError(
            "method flyp contrasts images with captions, which needs a network with an image and a text "
            "tower (CLIP, zero-shot); choose full"
        )
    if method in ("head", "lp-ft", "lora"):
        head_parameters(tunable.module, tunable.head)


def _train(
    tunable: Tunable, method: Method, recipe: Recipe, folder: Path | None, curve: Curve, probe: Recipe | None
) -> None:
    def run(recipe: Recipe, folder: Path | None, loss: Loss = tunable.loss) -> None:
        fit(tunable.module, loss, tunable.count, recipe, folder, method, tunable.fetch, curve)

    if method == "head":
        with only_head(tunable.module, tunable.head):
            run(recipe, folder)
    elif method == "lp-ft":
        first = probe or with_steps(recipe, recipe.steps // 2)
        rest = recipe if probe else with_steps(recipe, recipe.steps - first.steps)
        with only_head(tunable.module, tunable.head):
            run(first, folder and folder / "head")
        run(rest, folder and folder / "all")
    elif method == "lora":
        with low_rank(tunable.module, tunable.head, recipe.seed):
            run(recipe, folder)
    else:
        run(recipe, folder, tunable.contrastive if method == "flyp" else tunable.loss)  # type: ignore[arg-type]
