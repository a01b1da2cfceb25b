"""Fashion-MNIST photographs as sprites: real garments, 28x28 grey, in splits that share none.

Source: Xiao, Rasul, Vollgraf 2017, "Fashion-MNIST", MIT licence. A compact subset ships with the package.
"""

import gzip
import zipfile
import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from synreal.errors import InputError

CLASS_NAMES = (
    "t-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
# Ranges of the original files: (file, start, stop in the full set, stop in the compact subset).
SPLITS = {
    "upstream": ("train", 0, 40_000, 12_000),
    "train": ("train", 40_000, 56_000, 46_000),
    "val": ("train", 56_000, 60_000, 58_000),
    "test": ("t10k", 0, 10_000, 4_000),
}
COMPACT = Path(__file__).parent / "fashion_sprites.npz"


@dataclass(frozen=True)
class Sprites:
    """`images`: uint8 [N, 28, 28], 0 is background; `alpha`: their opacity; `by_class`: row numbers."""

    images: np.ndarray
    alpha: np.ndarray
    by_class: tuple[np.ndarray, ...]


@lru_cache(maxsize=8)
def load_sprites(split: str, folder: str | None = None) -> Sprites:
    """Sprites of one split, from the shipped subset or from the full Fashion-MNIST files in `folder`.

    `folder` holds the four `*-ubyte.gz` files (torchvision's `FashionMNIST/raw`, or Debian's
    `dataset-fashion-mnist`). Raises InputError for an unknown split or a folder without these files.
    """
    if split not in SPLITS:
        raise InputError(f"split: found {split!r}, expected one of {', '.join(SPLITS)}")
    images, labels = _read_compact(split) if folder is None else _read_full(Path(folder), split)
    alpha = np.stack([_opacity(image) for image in images])
    return Sprites(images, alpha, tuple(np.flatnonzero(labels == c) for c in range(len(CLASS_NAMES))))


def write_compact(folder: Path, out: Path = COMPACT) -> None:
    """Write the subset that ships: the first sprites of each split, about 370 bytes each."""
    arrays = {}
    for split, (_, start, _, stop) in SPLITS.items():
        images, labels = _read_full(folder, split)
        arrays[f"{split}_images"], arrays[f"{split}_labels"] = images[: stop - start], labels[: stop - start]
    with zipfile.ZipFile(out, "w", zipfile.ZIP_LZMA) as archive:
        for name, array in arrays.items():
            entry = zipfile.ZipInfo(f"{name}.npy")  # its fixed date makes the file reproducible
            entry.compress_type = zipfile.ZIP_LZMA
            with archive.open(entry, "w") as file:
                np.lib.format.write_array(file, array)


def _read_compact(split: str) -> tuple[np.ndarray, np.ndarray]:
    with np.load(COMPACT) as arrays:
        return arrays[f"{split}_images"], arrays[f"{split}_labels"]


def _read_full(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    part, start, stop, _ = SPLITS[split]
    images = _read_idx(folder / f"{part}-images-idx3-ubyte.gz", header=16)
    labels = _read_idx(folder / f"{part}-labels-idx1-ubyte.gz", header=8)
    if len(images) != 784 * len(labels) or len(labels) < stop:
        raise InputError(
            f"{folder}: {part} holds {len(images) / 784:g} images and {len(labels)} labels, expected as many "
            f"of each, {stop} or more; fetch the Fashion-MNIST files again"
        )
    return images.reshape(-1, 28, 28)[start:stop], labels[start:stop]


def _read_idx(path: Path, header: int) -> np.ndarray:
    if not path.exists():
        raise InputError(
            f"{path.parent}: no {path.name}; expected the four Fashion-MNIST *-ubyte.gz files "
            "(torchvision writes them to FashionMNIST/raw, Debian's dataset-fashion-mnist package ships them)"
        )
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be unpacked ({error}); fetch the file again") from error
    return np.frombuffer(content, np.uint8, offset=header)


def _opacity(image: np.ndarray) -> np.ndarray:
    """Opaque where there is garment; closing fills the dark seams that are not holes."""
    solid = (image > 12).astype(np.uint8) * 255
    return cv2.morphologyEx(solid, cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))
