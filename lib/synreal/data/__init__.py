"""Worlds and image sets."""
