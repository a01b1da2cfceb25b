"""A small CLIP tokenizer, learnt from captions, in the format that transformers and open_clip both load."""

import json
from collections.abc import Iterable

from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTokenizer

MAX_LENGTH = 32  # tokens, with start and end
_ALPHABET = [letter + end for end in ("", "</w>") for letter in sorted(ByteLevel.alphabet())]
_SPECIAL = ["<|startoftext|>", "<|endoftext|>"]


def learn_tokenizer(texts: Iterable[str], vocabulary: int = 768) -> CLIPTokenizer:
    """A CLIPTokenizer of at most `vocabulary` tokens; unseen words fall back to pieces, then to bytes.

    The same texts give the same tokens in every process.
    """
    # Named beforehand, letters that end a word are numbered in a fixed order, so that ties break alike.
    endings = _ALPHABET[len(_ALPHABET) // 2 :]
    trained = _tokenizer(merges=[]).train_new_from_iterator(texts, vocabulary, new_special_tokens=endings)
    merges = json.loads(trained.backend_tokenizer.to_str())["model"]["merges"]
    return _tokenizer([tuple(merge) for merge in merges])


def _tokenizer(merges: list[tuple[str, str]]) -> CLIPTokenizer:
    tokens = dict.fromkeys([*_ALPHABET, *("".join(merge) for merge in merges), *_SPECIAL])
    vocab = {token: i for i, token in enumerate(tokens)}
    tokenizer = CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=MAX_LENGTH)
    if len(tokenizer) != len(vocab):  # some versions of transformers ignore these arguments without a word
        raise RuntimeError(f"CLIPTokenizer holds {len(tokenizer)} tokens, expected {len(vocab)}")
    return tokenizer
