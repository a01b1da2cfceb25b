"""Texts as rows of tokens: what a language model is trained and scored on."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from synreal.errors import InputError

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
