"""A GPT-2 in its published format, with its tokenizer and rows of tokens."""

import copy
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from synreal.cache import file_hash
from synreal.errors import InputError

END = "<|endoftext|>"
FILES = ("tokenizer.json", "vocab.json")  # one of them
PADDED = 128  # by up to so many rows an embedding may exceed its vocabulary, to be a round number


def learn_text_tokenizer(texts: Iterable[str], vocabulary: int = 1024) -> PreTrainedTokenizerFast:
    """A byte-level BPE of at most `vocabulary` tokens, END among them; it can encode any text."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token=END, eos_token=END)


def has_tokenizer(folder: str | Path) -> bool:
    """Whether a tokenizer lies in a folder."""
    return any((Path(folder) / name).is_file() for name in FILES)


def load_text_tokenizer(folder: str | Path) -> PreTrainedTokenizerFast:
    """The tokenizer in a folder, in the format of transformers (tokenizer.json, or GPT-2's two files)."""
    if not has_tokenizer(folder):
        raise InputError(f"{folder}: no tokenizer; expected {' or '.join(FILES)} in this folder")
    tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    if tokenizer.eos_token_id is None:
        raise InputError(f"{folder}: the tokenizer names no eos_token, which separates texts; name one")
    return tokenizer


def check_fits(tokenizer: PreTrainedTokenizerFast, config: Any, where: str) -> None:
    """Raises InputError unless a network of this config has one embedding for each token (or a few more)."""
    surplus = config.vocab_size - len(tokenizer)
    if not 0 <= surplus < PADDED:
        raise InputError(
            f"{where}: the tokenizer has {len(tokenizer):,} tokens and the network embeds "
            f"{config.vocab_size:,}; give the tokenizer that the network was trained with"
        )


# Texts as rows of tokens: what a language model is trained and scored on.


IGNORED = -100  # fills a row behind its last token; no loss is taken there
Tokens = list[int]


def encode(texts: Sequence[str], tokenizer: PreTrainedTokenizerFast) -> list[Tokens]:
    """The tokens of each text, without any that mark its ends."""
    return tokenizer(list(texts), add_special_tokens=False, verbose=False).input_ids


def cut_alike(first: Sequence[Tokens], second: Sequence[Tokens]) -> tuple[list[Tokens], list[Tokens]]:
    """Both sets with the same number of tokens, text by text; each keeps its order.

    The longest text of one is cut to the length of the longest of the other, or the other way round, and so
    on down to the shortest. Raises InputError for sets of different size.
    """
    if len(first) != len(second):
        raise InputError(f"cut_alike: found {len(first)} and {len(second)} texts, expected as many of each")
    orders = [np.argsort([len(tokens) for tokens in part], stable=True) for part in (first, second)]
    cut = (list(first), list(second))
    for i, j in zip(*orders, strict=True):
        length = min(len(first[i]), len(second[j]))
        cut[0][i], cut[1][j] = first[i][:length], second[j][:length]
    return cut


def pack(texts: Sequence[Tokens], context: int, end: int) -> Tensor:
    """Rows [n, context + 1] of all texts behind one another, each between two `end` tokens.

    A row begins with the last token of the one before, so that every token but the first is predicted once;
    the last row is filled with IGNORED.
    """
    stream = [end]
    for tokens in texts:
        stream += [*tokens, end]
    starts = range(0, len(stream) - 1, context)
    rows = torch.full((len(starts), context + 1), IGNORED)
    for row, start in enumerate(starts):
        piece = stream[start : start + context + 1]
        rows[row, : len(piece)] = torch.tensor(piece)
    return rows


def training_rows(texts: Sequence[Tokens], context: int, end: int, what: str) -> Tensor:
    """The full rows of `pack`. Raises InputError when the texts do not fill one."""
    rows = pack(texts, context, end)
    rows = rows[(rows != IGNORED).all(1)]
    if not len(rows):
        found = sum(map(len, texts)) + len(texts) + 1
        raise InputError(
            f"{what}: found {found} tokens in {len(texts)} texts, expected more than the context of "
            f"{context}; give more text or a smaller context"
        )
    return rows


def equal_rows(
    texts: Mapping[str, Sequence[Tokens]], context: int, tokenizer: PreTrainedTokenizerFast
) -> dict[str, Tensor]:
    """`training_rows` of each of several sets by name, as many rows of each."""
    end = tokenizer.eos_token_id
    rows = {name: training_rows(part, context, end, name) for name, part in texts.items()}
    least = min(map(len, rows.values()))
    return {name: part[:least] for name, part in rows.items()}


# GPT-2 networks: made anew from a config, and loaded from a folder, both with their tokenizer.


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
    if has_tokenizer(architecture) and load_text_tokenizer(architecture).get_vocab() != tokenizer.get_vocab():
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
    return file_hash(Path(folder) / "model.safetensors")[:16]


def fastest_device() -> str:
    """The GPU where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def load_with_tokenizer(folder: str | Path) -> tuple[GPT2LMHeadModel, PreTrainedTokenizerFast]:
    """Network and tokenizer of a folder. Raises InputError when they do not belong to each other."""
    model, tokenizer = load_gpt2(folder), load_text_tokenizer(folder)
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
