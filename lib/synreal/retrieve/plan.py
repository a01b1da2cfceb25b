"""What retrieval from a corpus of any size needs, from measured constants."""

from dataclasses import dataclass

from synreal.errors import InputError


@dataclass(frozen=True)
class IvfPq:
    """Sizes of an inverted file with product quantisation (Jegou et al. 2011)."""

    lists: int  # coarse cells
    code_bytes: int  # of one item
    probes: int  # cells that a search visits
    training: int  # items that the cells and codes are learned from


def ivf_pq_shape(count: int, size: int) -> IvfPq:
    """The sizes used for `count` items of `size` dimensions.

    4 sqrt(N) lists (FAISS's own guideline), one byte per four dimensions, a sixteenth of the lists visited,
    at least 8, and 64 training items per list.
    """
    if size % 4:
        raise InputError(f"vectors of {size} dimensions: ivf-pq needs a multiple of 4; use kind flat")
    lists = max(1, min(round(4 * count**0.5), count // 39))  # k-means wants 39 items per centre
    return IvfPq(lists, size // 4, min(lists, max(8, lists // 16)), min(count, max(64 * lists, 16384)))
