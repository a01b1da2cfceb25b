"""What an image set is, in 16 hexadecimal digits."""

import hashlib
from itertools import chain
from pathlib import Path

from datasets import Dataset

from synreal.data.stored import stored_batches


def image_set_hash(images: Dataset) -> str:
    """16 hexadecimal digits of ids, labels and image bytes (path, size and time of images left on disk)."""
    digest = hashlib.sha256(repr(images.features["label"].names).encode())
    rows = chain.from_iterable(stored_batches(images))
    for row, label in zip(rows, images["label"][:], strict=True):
        digest.update(f"{row['id']} {label} ".encode())
        digest.update(row["image"]["bytes"] or _stamp(Path(row["image"]["path"])))
    return digest.hexdigest()[:16]


def _stamp(path: Path) -> bytes:
    stat = path.stat()
    return f"{path} {stat.st_size} {stat.st_mtime_ns}".encode()
