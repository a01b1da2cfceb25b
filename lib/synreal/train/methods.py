"""What the methods of `tune` do to a network before and after its training."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import pandas as pd
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from synreal.errors import InputError
from synreal.train.curve import Watch

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


def interpolation_path(
    module: nn.Module, before: Weights, after: Weights, alphas: Iterable[float], watch: Watch
) -> pd.DataFrame:
    """One row per alpha: alpha, and what `watch(module)` returns on the way from `before` (0) to `after` (1).

    The module is left as it was. Source: WiSE-FT (Wortsman et al. 2022).
    """
    return pd.DataFrame(
        [
            {"alpha": alpha} | _with_weights(module, interpolate(before, after, alpha), watch)
            for alpha in alphas
        ]
    )


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
