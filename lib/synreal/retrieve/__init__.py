"""Retrieval of real images from a generator's training pool, the baseline of P2."""
