"""Lightness of images per second, beside a loop over images with scikit-image.

    python benchmarks/lightness.py

Time on the clock: synreal uses all cores, the loop the one that it can. First, by how much peak memory grows
with the set. Then arrays, small and large, noise and a photograph, with how far the two are apart; then a
stored set, where both also decode the images.
"""

import resource
import time
from collections.abc import Callable

import datasets
import numpy as np
from skimage import data as photographs
from skimage.color import rgb2lab

from synreal.data.decode import from_arrays, to_rgb
from synreal.synbench.measures import Brightness, lightness

ROUNDS = 7


def with_skimage(images: np.ndarray) -> np.ndarray:
    return np.array([rgb2lab(image)[..., 0].mean() for image in images])


def set_with_skimage(images: datasets.Dataset) -> np.ndarray:
    return np.array([rgb2lab(np.asarray(to_rgb(image)))[..., 0].mean() for image in images["image"]])


def set_with_synreal(images: datasets.Dataset) -> np.ndarray:
    return Brightness().values(images).to_numpy()


def seconds(*ways: Callable[[], np.ndarray]) -> list[float]:
    """The best of some rounds, in which the ways take turns."""
    best = [float("inf")] * len(ways)
    for _ in range(ROUNDS):
        for which, way in enumerate(ways):
            start = time.perf_counter()
            way()
            best[which] = min(best[which], time.perf_counter() - start)
    return best


def report(name: str, count: int, ours: Callable[[], np.ndarray], theirs: Callable[[], np.ndarray]) -> None:
    apart = np.abs(ours() - theirs()).max()
    fast, slow = seconds(ours, theirs)
    print(
        f"{name}: synreal {count / fast:,.0f} images per second, scikit-image {count / slow:,.0f}, "
        f"{slow / fast:.1f} times; at most {apart:.0e} L* apart"
    )


def growth() -> float:
    """MiB of peak memory that 2,048 images of 256x256 take beyond what 64 of them took."""
    images = np.random.default_rng(0).integers(0, 256, (64, 256, 256, 3), dtype=np.uint8)
    few = from_arrays(images, np.zeros(64, int), ["any"])
    many = datasets.concatenate_datasets([few] * 32).remove_columns("id")  # shares the bytes of the few
    many = many.add_column("id", [f"{row:04d}" for row in range(len(many))])
    peaks = []
    for part in (few, many):
        Brightness().values(part)
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    return peaks[1] - peaks[0]


def main() -> None:
    print(
        f"memory: {growth():.0f} MiB more for 2,048 images than for 64"
    )  # first, before others raise the peak
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (20_000, 32, 32, 3), dtype=np.uint8)
    large = rng.integers(0, 256, (64, 512, 512, 3), dtype=np.uint8)
    photograph = photographs.astronaut()[None].repeat(64, axis=0)
    arrays = {"20,000 of 32x32": small, "64 of 512x512": large, "64 photographs of 512x512": photograph}
    for name, images in arrays.items():
        report(name, len(images), lambda x=images: lightness(x), lambda x=images: with_skimage(x))
    stored = from_arrays(small[:2000], np.zeros(2000, int), ["any"])
    report(
        "set of 2,000 PNGs of 32x32", 2000, lambda: set_with_synreal(stored), lambda: set_with_skimage(stored)
    )


if __name__ == "__main__":
    main()
