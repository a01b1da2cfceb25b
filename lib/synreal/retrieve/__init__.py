"""Retrieval of real images from a generator's training pool, the baseline of P2."""

from synreal.retrieve.corpus import open_corpus
from synreal.retrieve.filters import Filters
from synreal.retrieve.semantic import Lookup

__all__ = ["Filters", "Lookup", "open_corpus"]
