"""Labelled images in memory, from which a data experiment chooses rows."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from datasets import Dataset

from synreal.data.arrays import to_arrays
from synreal.data.imageset import class_names, match_classes, mixed_classes
from synreal.data.worlds import open_world
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
        return _hashes(image.tobytes() + m.tobytes() for image, m in rows)

    @cached_property
    def origins(self) -> np.ndarray:
        """As `digests`, but of scenes by their ids: processors round a few of their pixels differently."""
        found = self.digests.copy()
        if self.name.startswith("scenes/"):
            drawn = f"{self.name} {self.images.shape[1]}"
            found[self.real] = _hashes(f"{drawn} {scene}".encode() for scene in self.ids[self.real])
        return found

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


def _hashes(rows: Iterable[bytes]) -> np.ndarray:
    parts = [hashlib.blake2b(row, digest_size=8).digest() for row in rows]
    return np.frombuffer(b"".join(parts), dtype=np.uint64)


def open_pool(real_set: str, count: int, synthetic_set: str, size: int) -> Pool:
    """Real images, and below them those of the synthetic set, a folder or file seen from the repository."""
    real = mixed_classes(open_world(real_set, count).images)
    synthetic = mixed_classes(open_world(synthetic_set, hierarchy="none").images)
    return Pool.of(real_set, real, synthetic, size)


def unbalanced(total: int, classes: int) -> np.ndarray:
    """Images per class, `total` in all, that grow linearly from 21/40 to 59/40 of the mean (P1 App. B)."""
    shares = np.linspace(21, 59, classes) / 40 * total / classes
    return np.diff(np.round(np.cumsum(shares)).astype(int), prepend=0)
