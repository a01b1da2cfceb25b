"""Small images are decoded once, and are the same as those decoded one by one."""

import numpy as np
import pytest

from synreal.data import decode
from synreal.data.decode import SMALL, from_arrays, image_batches

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)


def a_set(pixels):
    return from_arrays(pixels, [0] * len(pixels), ["thing"])


def test_small_images_come_as_arrays_and_are_decoded_once(monkeypatch):
    decode._pixels.cache_clear()
    first = list(image_batches(a_set(PIXELS), 2))
    assert [len(batch) for batch in first] == [2, 2, 1]
    assert np.array_equal(np.concatenate(first), PIXELS)
    list(image_batches(a_set(PIXELS), 3))  # another object with the same content
    assert (decode._pixels.cache_info().misses, decode._pixels.cache_info().hits) == (1, 1)
    assert np.array_equal(next(image_batches(a_set(255 - PIXELS), 5)), 255 - PIXELS), "other images"


@pytest.mark.parametrize("side", [SMALL, SMALL + 1])
def test_sizes_that_differ_and_large_images_come_one_by_one(side):
    images = [np.full((side, side, 3), 7, np.uint8), np.full((8, 9, 3), 3, np.uint8)]
    [batch] = image_batches(a_set(images), 10)
    assert [np.asarray(image).shape for image in batch] == [(side, side, 3), (8, 9, 3)]
    assert all(np.array_equal(np.asarray(found), image) for found, image in zip(batch, images, strict=True))
