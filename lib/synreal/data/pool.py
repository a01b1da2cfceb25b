"""Labelled images in memory, from which a data experiment chooses rows."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from datasets import Dataset

from synreal.data.arrays import to_arrays
from synreal.data.imageset import class_names, match_classes
from synreal.errors import InputError


@dataclass(frozen=True, eq=False)
class Pool:
    """images: uint8 [N, H, W, 3]; labels: int64 [N], numbers of class_names; real: bool [N]; ids: str [N]."""

    name: str
    images: np.ndarray
    labels: np.ndarray
    real: np.ndarray
    ids: np.ndarray
    class_names: tuple[str, ...]

    @classmethod
    def of(
        cls, name: str, real: Dataset, synthetic: Dataset | None = None, size: int | None = None
    ) -> "Pool":
        """A pool of real images and, below them, synthetic ones of the same classes.

        size: pixels of a side, see `to_arrays`. Raises InputError when the classes differ.
        """
        parts = [real]
        if synthetic is not None:
            parts.append(match_classes(real, synthetic, ("the real set", "the synthetic set")))
        arrays = [to_arrays(part, size) for part in parts]
        images, labels = (np.concatenate(columns) for columns in zip(*arrays, strict=True))
        return cls(
            name=name,
            images=images,
            labels=labels,
            real=np.repeat([True, False][: len(parts)], [len(part) for part in parts]),
            ids=np.concatenate([np.array(part["id"][:], dtype=str) for part in parts]),
            class_names=tuple(class_names(real)),
        )

    @cached_property
    def digests(self) -> np.ndarray:
        """Eight bytes of hash for each row's image, label and kind."""
        marks = np.stack([self.labels, self.real], axis=1).astype(np.int64)
        rows = zip(self.images, marks, strict=True)
        hashes = [hashlib.blake2b(image.tobytes() + m.tobytes(), digest_size=8).digest() for image, m in rows]
        return np.frombuffer(b"".join(hashes), dtype=np.uint64)

    def choose(self, *, real: bool, per_class: int | Sequence[int], seed: int) -> np.ndarray:
        """Rows of randomly chosen images of one kind, `per_class` of each class (or one count for each).

        Choices of the same seed are nested: fewer images are part of more. Raises InputError where a class
        has fewer images than asked for.
        """
        counts = np.broadcast_to(per_class, len(self.class_names))
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(self.labels))
        chosen = []
        for label, count in enumerate(counts):
            own = order[(self.labels[order] == label) & (self.real[order] == real)]
            if len(own) < count:
                raise InputError(
                    f"{self.name}: class {self.class_names[label]} has {len(own)} "
                    f"{'real' if real else 'synthetic'} images, {count} are asked for; "
                    "ask for fewer or open a larger set"
                )
            chosen.append(own[:count])
        return np.concatenate(chosen)


def unbalanced(total: int, classes: int) -> np.ndarray:
    """Images per class, `total` in all, that grow linearly from 21/40 to 59/40 of the mean (P1 App. B)."""
    shares = np.linspace(21, 59, classes) / 40 * total / classes
    return np.diff(np.round(np.cumsum(shares)).astype(int), prepend=0)
