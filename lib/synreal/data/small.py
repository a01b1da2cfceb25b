"""Sets of small images, decoded once for all the networks that are tuned or examined on them."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from datasets import Dataset
from PIL import Image

from synreal.data.fingerprint import image_set_hash
from synreal.data.stored import decoded, stored_batches, undecoded

SMALL = 64  # pixels of a side; sets of images up to here are held in memory
KEPT = 8  # sets; one of 2,000 images of 32 pixels takes 6 MB


def image_batches(images: Dataset, size: int) -> Iterator[np.ndarray | list[np.ndarray] | list[Image.Image]]:
    """The images of a set in order, `size` at a time: arrays, uint8 RGB, where they are small, or else PIL's.

    Raises InputError, naming its id, for an image that cannot be decoded.
    """
    first = decoded(undecoded(images)[0]).size
    if max(first) > SMALL:
        yield from ([decoded(row) for row in rows] for rows in stored_batches(images, size))
        return
    pixels = _pixels(_Set(image_set_hash(images), images))
    yield from (pixels[start : start + size] for start in range(0, len(pixels), size))


@dataclass(frozen=True)
class _Set:
    """A set that is known by its hash."""

    digest: str
    images: Dataset = field(compare=False)


@lru_cache(maxsize=KEPT)
def _pixels(known: _Set) -> np.ndarray | list[np.ndarray]:
    pixels = [np.asarray(decoded(row)) for rows in stored_batches(known.images) for row in rows]
    return np.stack(pixels) if len({image.shape for image in pixels}) == 1 else pixels
