"""Checkpoint cards, strict loading, classifiers."""
