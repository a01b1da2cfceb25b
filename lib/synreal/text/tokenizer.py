"""Byte-level BPE, as GPT-2's, and the check that a tokenizer belongs to a network."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from synreal.errors import InputError

END = "<|endoftext|>"
FILES = ("tokenizer.json", "vocab.json")  # one of them
PADDED = 128  # by up to so many rows an embedding may exceed its vocabulary, to be a round number


def learn_tokenizer(texts: Iterable[str], vocabulary: int = 1024) -> PreTrainedTokenizerFast:
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


def load_tokenizer(folder: str | Path) -> PreTrainedTokenizerFast:
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
