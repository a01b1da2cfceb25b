"""Whether images are real or generated, as far as their set says."""

import pyarrow as pa
from datasets import Dataset


def not_generated(images: Dataset) -> Dataset:
    """The set with a column `generator` that names none: for published sets of real images."""
    return images.add_column("generator", pa.nulls(len(images), pa.string()))


def kind_of(images: Dataset) -> str:
    """real, synthetic or mixed, as far as the set itself says; else unknown.

    A generated image names its generator, and one without a name in that column is real. Where there is no
    such column, `source` says it with one of these words.
    """
    if "generator" in images.column_names:
        kinds = {"real" if generator is None else "synthetic" for generator in images["generator"][:]}
    else:
        kinds = set(images["source"][:])
    if not kinds <= {"real", "synthetic"}:
        return "unknown"
    return kinds.pop() if len(kinds) == 1 else "mixed"
