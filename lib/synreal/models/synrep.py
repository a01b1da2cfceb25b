"""Reading checkpoints as research groups publish them: pickled state dicts, sometimes wrapped.

SynRep's checkpoints (google-research/syn-rep-learn, Scaling/) are raw state dicts without hashes. Their ViT
class derives from timm's `VisionTransformer` and their CLIP is open_clip's `CLIP`; their own evaluation loads
both strictly, so the published keys are timm's and open_clip's own and need no renaming:

- ViT: cls_token, pos_embed, patch_embed.proj, blocks.N.{norm1, attn.qkv, attn.proj, norm2, mlp.fc1, mlp.fc2},
  norm, head.
- CLIP: visual.{class_embedding, positional_embedding, proj, conv1, ln_pre, transformer.resblocks.N, ln_post},
  transformer.resblocks.N, token_embedding, positional_embedding, ln_final, text_projection, logit_scale.
"""

import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from synreal.errors import InputError

CONTAINERS = ("state_dict", "model")  # what training loops wrap a state dict in
PARALLEL = "module."  # what DataParallel puts before every key


def read_pickled(file: Path) -> dict[str, Tensor]:
    """The state dict in a .pt or .pth file, read without running code from it, unwrapped."""
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{file}: holds more than tensors, and reading that could run any code, so it is refused. "
            f"Re-save its state dict alone, where you trust it. ({str(error).splitlines()[0]})"
        ) from error
    except (RuntimeError, EOFError) as error:
        raise InputError(f"{file}: not a readable PyTorch file: {error}") from error
    return unwrap_state_dict(content, file)


def unwrap_state_dict(content: Any, file: Path) -> dict[str, Tensor]:
    """The bare state dict: out of one container, without the prefix of DataParallel.

    Raises InputError when what is inside is no state dict, or only some keys carry the prefix.
    """
    if isinstance(content, dict):
        inner = [name for name in CONTAINERS if isinstance(content.get(name), dict)]
        if len(inner) > 1:
            raise InputError(
                f"{file}: holds both {' and '.join(inner)}; which one is meant is not clear, save one"
            )
        content = content[inner[0]] if inner else content
    if not isinstance(content, dict) or not content:
        raise InputError(f"{file}: found {type(content).__name__}, expected a state dict (names to tensors)")
    strangers = [name for name, value in content.items() if not isinstance(value, Tensor)]
    if strangers:
        raise InputError(f"{file}: not a state dict: {', '.join(map(str, strangers[:3]))} hold no tensors")
    return _without_prefix(content, file)


def _without_prefix(state: dict[str, Tensor], file: Path) -> dict[str, Tensor]:
    prefixed = [name for name in state if name.startswith(PARALLEL)]
    if prefixed and len(prefixed) < len(state):
        raise InputError(
            f"{file}: {len(prefixed)} of {len(state)} keys begin with {PARALLEL!r}, expected all or none"
        )
    return {name.removeprefix(PARALLEL): tensor for name, tensor in state.items()}
