"""Tuning of a classifier: what is trained, and how (P1 sec. 4, P2 sec. 4)."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from synreal.errors import InputError
from synreal.models.classifier import weights_hash
from synreal.train.loop import Diverged, Fetch, Loss, fit
from synreal.train.recipes import SCENES_VIT, Recipe, with_steps
from synreal.train.state import LOSS_FILE, Curve, Watch, note_run

Weights = Mapping[str, Tensor]
Prefix = str | tuple[str, ...]  # of the names of a head's parameters; some networks have two heads
RANK = 8  # of LoRA's additions; their scale is 2, as in its authors' experiments on language models
ADAPTED = (nn.Linear, Conv1D, nn.MultiheadAttention)


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    """A copy of the weights and buffers, on the CPU."""
    return {name: tensor.detach().cpu().clone() for name, tensor in module.state_dict().items()}


def interpolate(before: Weights, after: Weights, alpha: float) -> dict[str, Tensor]:
    """(1 - alpha) * before + alpha * after, name by name; whole numbers, such as counters, are `after`'s."""
    return {
        name: torch.lerp(before[name], tensor, alpha) if tensor.is_floating_point() else tensor
        for name, tensor in after.items()
    }


def watch_between(before: Weights, alpha: float, watch: Watch) -> Watch:
    """The same watch, of weights `alpha` of the way from `before` to what they are."""

    def watch_mixed(module: nn.Module) -> dict[str, float]:
        return _with_weights(module, interpolate(before, snapshot(module), alpha), watch)

    return watch_mixed


@torch.no_grad()
def _with_weights(module: nn.Module, weights: Weights, watch: Watch) -> dict[str, float]:
    kept = snapshot(module)
    module.load_state_dict(weights)
    try:
        return watch(module.eval())
    finally:
        module.load_state_dict(kept)


def head_parameters(module: nn.Module, head: Prefix) -> list[nn.Parameter]:
    """The parameters under the prefix `head`. InputError where there are none."""
    found = [weight for name, weight in module.named_parameters() if _under(name, head)]
    if not found:
        names = dict.fromkeys(name.split(".")[0] for name, _ in module.named_parameters())
        raise InputError(f"head: found no parameter under {head!r}; the module has {', '.join(names)}")
    return found


@contextmanager
def only_head(module: nn.Module, head: Prefix) -> Iterator[None]:
    """Inside, only the head can be trained."""
    trained = [weight for weight in module.parameters() if weight.requires_grad]
    chosen = head_parameters(module, head)
    module.requires_grad_(False)
    for weight in chosen:
        weight.requires_grad_(True)
    try:
        yield
    finally:
        for weight in trained:
            weight.requires_grad_(True)


@contextmanager
def low_rank(module: nn.Module, head: Prefix, seed: int) -> Iterator[None]:
    """Inside, only LoRA's additions and the head can be trained; afterwards the additions are merged.

    Adapted are linear layers and attention; in a network without them below its head, the convolutions.
    """
    from peft import LoraConfig, get_peft_model  # seconds to import, for this method alone

    trained = [weight for weight in module.parameters() if weight.requires_grad]
    chosen = head_parameters(module, head)
    config = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=_adapted(module, head))
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        adapted = get_peft_model(module, config)
    for weight in chosen:
        weight.requires_grad_(True)
    try:
        yield
    finally:
        adapted.merge_and_unload()
        for weight in trained:
            weight.requires_grad_(True)


def _adapted(module: nn.Module, head: Prefix) -> list[str]:
    below = {name: part for name, part in module.named_modules() if name and not _under(name, head)}
    attention = [name for name, part in below.items() if isinstance(part, nn.MultiheadAttention)]
    inside = tuple(f"{name}." for name in attention)
    linear = [
        name for name, part in below.items() if isinstance(part, ADAPTED) and not name.startswith(inside)
    ]
    return linear or [name for name, part in below.items() if isinstance(part, nn.Conv2d)]


def _under(name: str, prefix: Prefix) -> bool:
    prefixes = (prefix,) if isinstance(prefix, str) else prefix
    return f"{name}.".startswith(tuple(f"{one}." for one in prefixes))


# `tune`: change a trained network with a little more data, by any of the methods, images and text alike.


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


# A linear probe: the best linear classifier on features that stay as they are.


RIDGE = 1e-3  # weight of the squared coefficients, on features of unit variance
ITERATIONS = 100


def linear_probe(features: Tensor, labels: Tensor, classes: int) -> nn.Linear:
    """Logistic regression on float [N, D] features, int64 [N] labels, as the layer that replaces a head.

    Features are standardised, and the layer takes them as they come. The loss is convex, so the result is a
    function of the data alone.
    """
    mean, std = features.mean(0), features.std(0) + 1e-6
    scaled = (features - mean) / std
    layer = nn.Linear(features.shape[1], classes).to(features.device)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=ITERATIONS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(layer(scaled), labels) + RIDGE * layer.weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    with torch.no_grad():
        layer.weight.div_(std)
        layer.bias.sub_(layer.weight @ mean)
    return layer
