"""GPT-2 networks: made anew from a config, and loaded from a folder, both with their tokenizer."""

import copy
import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from synreal.errors import InputError
from synreal.text.tokenizer import check_fits, has_tokenizer, load_tokenizer

# By name: GPT-2 in the paper's size (the config's own defaults, 124 million parameters), and smaller ones.
SIZES: dict[str, dict[str, Any]] = {
    "gpt2": {},
    "mini": {"n_embd": 64, "n_layer": 2, "n_head": 2, "n_positions": 128, "initializer_range": 0.06},
    "generator": {"n_embd": 128, "n_layer": 3, "n_head": 4, "n_positions": 192},
}
# The same function as GPT-2's own "gelu_new", as one kernel; and no dropout in what sees its text only twice.
# So narrow a network learns much faster from larger first weights than GPT-2's 0.02.
SMALL = {"activation_function": "gelu_pytorch_tanh", "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}


def gpt2_config(architecture: str, tokenizer: PreTrainedTokenizerFast) -> GPT2Config:
    """The config of a network to train: one of SIZES, or that of a folder with a GPT-2 config.json.

    Raises InputError where there is no such folder, or the tokenizer is not the one that lies there.
    """
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    if architecture in SIZES:
        given = SIZES[architecture] | (SMALL if SIZES[architecture] else {})
        return GPT2Config(vocab_size=len(tokenizer), **given, **ends)
    config = _read_config(Path(architecture))
    check_fits(tokenizer, config, architecture)
    if has_tokenizer(architecture) and load_tokenizer(architecture).get_vocab() != tokenizer.get_vocab():
        raise InputError(
            f"tokenizer: it has another vocabulary than that in {architecture}; give the same to both"
        )
    return config


def new_gpt2(config: GPT2Config, seed: int) -> GPT2LMHeadModel:
    """An untrained network; its first weights are set by the seed."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return GPT2LMHeadModel(copy.deepcopy(config))  # which writes into it


def load_gpt2(folder: str | Path) -> GPT2LMHeadModel:
    """The network in a folder in the format of transformers, in float32 and eval mode, from safetensors."""
    folder = Path(folder)
    _read_config(folder)
    if not (folder / "model.safetensors").is_file():
        raise InputError(f"{folder}: no model.safetensors; expected weights in the safetensors format")
    model = GPT2LMHeadModel.from_pretrained(
        str(folder), local_files_only=True, use_safetensors=True, dtype=torch.float32
    )
    return model.eval()


def fingerprint(folder: str | Path) -> str:
    """16 hexadecimal digits of the weights in a folder."""
    return hashlib.sha256((Path(folder) / "model.safetensors").read_bytes()).hexdigest()[:16]


def fastest_device() -> str:
    """The GPU where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def load_with_tokenizer(folder: str | Path) -> tuple[GPT2LMHeadModel, PreTrainedTokenizerFast]:
    """Network and tokenizer of a folder. Raises InputError when they do not belong to each other."""
    model, tokenizer = load_gpt2(folder), load_tokenizer(folder)
    check_fits(tokenizer, model.config, str(folder))
    return model, tokenizer


def head_of(model: nn.Module) -> str:
    """The prefix of the head's parameters; GPT-2's head usually is its embedding of tokens."""
    tied = model.config.tie_word_embeddings  # type: ignore[union-attr]
    return "transformer.wte" if tied else "lm_head"


def _read_config(folder: Path) -> GPT2Config:
    if not (folder / "config.json").is_file():
        raise InputError(
            f"architecture: found {str(folder)!r}, expected one of {', '.join(SIZES)} or a folder with a "
            "config.json"
        )
    config = GPT2Config.from_pretrained(str(folder), local_files_only=True)
    if config.model_type != "gpt2":
        raise InputError(f"{folder}: holds a {config.model_type} network, expected gpt2")
    return config
