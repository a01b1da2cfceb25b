"""Strict loading and saving of checkpoints, the published SynRep weights among them."""

import os
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from open_clip.transformer import QuickGELU
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from timm.layers.activations import GELU as TimmGELU
from timm.layers.activations import GELUTanh
from timm.layers.activations import QuickGELU as TimmQuickGELU
from torch import Tensor, nn

from synreal.cache import atomic, file_hash, write_text
from synreal.errors import InputError
from synreal.models.card import CARD_FILE, Card, load_card
from synreal.models.classifier import Classifier, LinearClassifier, Preprocess, build_timm
from synreal.models.clip import ZeroShotClassifier, build_clip, build_tower

# What training loops wrap a state dict in: raw weights, and their running average.
CONTAINERS = ("state_dict", "model", "model_state_dict", "state_dict_ema", "model_ema", "ema")
# What torch.compile, DataParallel and Lightning put before every key.
PREFIXES = ("_orig_mod.", "module.", "model.")
AVERAGED = "n_averaged"  # torch's AveragedModel counts its updates beside the weights
NO_PICKLE = (RuntimeError, EOFError, LookupError, ValueError, TypeError, AttributeError)  # of torch.load


def read_pickled(file: Path) -> dict[str, Tensor]:
    """The state dict in a .pt or .pth file, read without running code from it, unwrapped."""
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{file}: holds more than tensors, and reading that could run any code, so it is refused. "
            f"Re-save its state dict alone, where you trust it. ({str(error).splitlines()[0]})"
        ) from error
    except NO_PICKLE as error:
        raise InputError(f"{file}: not a readable PyTorch file: {type(error).__name__}: {error}") from error
    return unwrap_state_dict(content, file)


def unwrap_state_dict(content: Any, file: Path) -> dict[str, Tensor]:
    """The bare state dict: out of one container, without the prefixes that wrappers put before every key.

    Raises InputError when what is inside is no state dict, when there are several (raw and averaged weights),
    or only some keys carry a prefix.
    """
    if isinstance(content, dict):
        inner = [name for name in CONTAINERS if isinstance(content.get(name), dict)]
        if len(inner) > 1:
            raise InputError(
                f"{file}: holds {' and '.join(inner)}; which weights are meant is not clear, save one of them"
            )
        content = content[inner[0]] if inner else content
    if not isinstance(content, dict) or not content:
        raise InputError(f"{file}: found {type(content).__name__}, expected a state dict (names to tensors)")
    if strange := [name for name in content if not isinstance(name, str)]:
        raise InputError(f"{file}: not a state dict: found the name {strange[0]!r}, expected text")
    strangers = [name for name, value in content.items() if not isinstance(value, Tensor)]
    if strangers:
        raise InputError(f"{file}: not a state dict: {', '.join(map(str, strangers[:3]))} hold no tensors")
    return _without_prefixes(content, file)


def _without_prefixes(state: dict[str, Tensor], file: Path) -> dict[str, Tensor]:
    if AVERAGED in state:
        state = {name: tensor for name, tensor in state.items() if name != AVERAGED}
    while prefix := next((p for p in PREFIXES if any(name.startswith(p) for name in state)), None):
        prefixed = [name for name in state if name.startswith(prefix)]
        if len(prefixed) < len(state):
            raise InputError(
                f"{file}: {len(prefixed)} of {len(state)} keys begin with {prefix!r}, expected all or none"
            )
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


# Strict loading and saving of checkpoints: what does not fit its card is refused with the reason.


WEIGHTS_FILE = "model.safetensors"
ACTIVATIONS: dict[type[nn.Module], str] = {
    nn.GELU: "gelu",
    TimmGELU: "gelu",
    GELUTanh: "gelu_tanh",
    QuickGELU: "quick_gelu",
    TimmQuickGELU: "quick_gelu",
    nn.ReLU: "relu",
    nn.ReLU6: "relu6",
    nn.SiLU: "silu",
}

_BUILDERS: dict[tuple[str, str], Callable[[Card], nn.Module]] = {
    ("timm", "linear"): build_timm,
    ("open_clip", "zero-shot"): build_clip,
    ("open_clip", "linear"): build_tower,
}


def load_classifier(
    card: Card | str | Path,
    class_names: Sequence[str] | None = None,
    device: str | torch.device = "cpu",
    preprocess: Preprocess | None = None,
) -> Classifier:
    """The checkpoint of a card as a classifier in eval mode.

    `class_names`: the classes to ask about, in the order of the columns of the logits; default: the card's. A
    linear head is restricted to them, so they must be the card's; a zero-shot head takes any.
    `preprocess`: replaces the card's own preparation of images.
    Raises InputError for missing weights, a wrong hash, keys, shapes or activation that do not fit, and as
    `check_device`.
    """
    check_device(device)
    card = card if isinstance(card, Card) else load_card(card)
    names = tuple(card.class_names if class_names is None else class_names)
    if not names or len(set(names)) < len(names):
        raise InputError(f"class_names: expected different names, at least one; found {list(names)[:5]}")
    # the layout in which convolutions are faster, here and on GPUs
    module = load_module(card).to(device).to(memory_format=torch.channels_last)
    kind = LinearClassifier if card.head == "linear" else ZeroShotClassifier
    return kind(card, module, names, preprocess or Preprocess.from_card(card))


def check_device(device: str | torch.device) -> None:
    """Raises InputError for what is no device of this machine."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"device: found {str(device)!r}, expected one that this machine has, such as cpu: {reason}"
        ) from error


def load_module(card: Card) -> nn.Module:
    """The card's model with its weights in float32, in eval mode, on the CPU; raises as `load_classifier`."""
    file = weights_file(card)
    _check_sha256(file, card)
    state = _without_prefixes(read_weights(file), file)
    module = build_module(card)
    _check_shapes(state, module, file, card)
    _check_values(state, module, file)
    module.load_state_dict(state, strict=True)
    return module.eval()


def build_module(card: Card) -> nn.Module:
    """The card's model, untrained. Raises InputError when its activation is not the card's."""
    module = _BUILDERS[card.library, card.head](card)
    found = {ACTIVATIONS[type(part)] for part in module.modules() if type(part) in ACTIVATIONS}
    if found != {card.activation}:
        raise InputError(
            f"{card.where}: activation is {card.activation}, but {card.architecture} as built uses "
            f"{' and '.join(sorted(found)) or 'none that is known'}; correct activation or "
            "architecture_args"
        )
    return module


def weights_file(card: Card) -> Path:
    """The weights file of a card. Raises InputError saying where it is expected and where it is published."""
    source = f" It is published at {card.published_at}." if card.published_at else ""
    if card.weights_env and card.weights_env not in os.environ:
        raise InputError(
            f"{card.where}: set the environment variable {card.weights_env} to the folder that holds "
            f"{card.weights}.{source}"
        )
    if not card.weights_env and card.file is None:
        raise InputError(
            f"{card.where}: weights {card.weights!r} lie beside the card's file, but this card has none"
        )
    folder = Path(os.environ[card.weights_env]) if card.weights_env else card.file.parent  # type: ignore[union-attr]
    if not (folder / card.weights).is_file():
        by = f" (from {card.weights_env})" if card.weights_env else ""
        raise InputError(f"{card.where}: no weights file {card.weights} in {folder}{by}.{source}")
    return folder / card.weights


def read_weights(file: Path) -> dict[str, Tensor]:
    """Tensors by name, floating ones as float32; from safetensors, or a pickle that holds tensors only."""
    if file.suffix == ".safetensors":
        try:
            state = load_file(file)
        except SafetensorError as error:
            raise InputError(f"{file}: not a readable safetensors file: {error}") from error
    elif file.name.endswith((".pt", ".pth", ".pth.tar")):
        state = read_pickled(file)
    else:
        raise InputError(f"{file}: expected .safetensors, .pt, .pth or .pth.tar")
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}


def save_checkpoint(folder: str | Path, module: nn.Module, card: Card, half: bool = False) -> Card:
    """Writes model.safetensors and card.yaml into the folder; returns the card as written, with its sha256.

    `half` stores float16: half the size, three decimal digits, back to float32 on loading. Each file appears
    whole, the card last, so an interrupted save leaves no card or one whose hash does not fit.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / WEIGHTS_FILE
    save_weights(weights, module, half)
    saved = card.model_copy(
        update={"weights": WEIGHTS_FILE, "weights_env": None, "sha256": file_hash(weights)}
    )
    write_text(folder / CARD_FILE, saved.to_yaml())
    return load_card(folder / CARD_FILE)


def save_weights(file: Path, module: nn.Module, half: bool = False) -> None:
    """The module's state as safetensors, which appears whole; `half` stores float16."""
    state = {name: _stored(name, tensor, half) for name, tensor in module.state_dict().items()}
    with atomic(file) as unfinished:
        save_file(state, unfinished, metadata={"format": "pt"})


def _stored(name: str, tensor: Tensor, half: bool) -> Tensor:
    stored = tensor.detach().cpu().contiguous()
    if half and stored.is_floating_point():
        stored = stored.half()
    if not torch.isfinite(stored).all():
        raise InputError(
            f"weights {name}: not all finite{' in float16' if half else ''}; the training diverged, "
            "or half=False is needed"
        )
    return stored


def _check_sha256(file: Path, card: Card) -> None:
    if card.sha256 and (found := file_hash(file)) != card.sha256:
        raise InputError(
            f"{file}: sha256 is {found}, {card.where} says {card.sha256}; fetch the file again, or "
            "correct the card if the checkpoint was replaced on purpose"
        )


def _check_shapes(state: dict[str, Tensor], module: nn.Module, file: Path, card: Card) -> None:
    wanted = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    other = {name for name in wanted.keys() & found.keys() if wanted[name] != found[name]}
    faults = {
        "missing": sorted(wanted.keys() - found.keys()),
        "unexpected": sorted(found.keys() - wanted.keys()),
        "of another shape": [
            f"{name} {list(found[name])}, expected {list(wanted[name])}" for name in sorted(other)
        ],
    }
    told = [f"{len(names)} {fault}: {_first(names)}" for fault, names in faults.items() if names]
    if told:
        raise InputError(
            f"{file} does not fit {card.architecture} with {len(card.class_names)} classes as "
            f"{card.where} describes it. Keys {'; '.join(told)}"
        )


def _check_values(state: dict[str, Tensor], module: nn.Module, file: Path) -> None:
    """Weights must be numbers of the kind that the model computes with."""
    for name, wanted in module.state_dict().items():
        if wanted.is_floating_point() != state[name].is_floating_point():
            raise InputError(f"{file}: {name} is of type {state[name].dtype}, expected {wanted.dtype}")
        if not state[name].isfinite().all():
            raise InputError(f"{file}: {name} holds values that are not finite; the training had diverged")


def _first(names: Sequence[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (" ..." if len(names) > most else "")
