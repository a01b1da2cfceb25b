"""Image sets from outside the world, to which networks are transferred (P1 App. B, Tables 11 and 12).

P1 takes Caltech101 and EuroSAT, which torchvision reads from a folder. Offline, and as far from the scenes,
are the handwritten digits that ship with scikit-learn; digits drawn with OpenCV's stroke fonts are their
synthetic counterpart.
"""

from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import pandas as pd
from datasets import Dataset
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torchvision.datasets import Caltech101, EuroSAT

from synreal.data.folders import from_paths
from synreal.data.imageset import finish_image_set, from_arrays, load_image_set
from synreal.data.kind import not_generated
from synreal.data.labels import classify
from synreal.errors import InputError
from synreal.paths import expanded, located

Split = Literal["train", "test"]
Listing = tuple[list[str], list[int], list[str]]  # paths below the root, labels, class names
SPLITS = ("train", "test")
DIGITS = tuple("0123456789")
TUNED = (
    900  # handwritten digits to tune on, in the order of the file; the rest is another half of the writers
)
FONTS = (
    cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_PLAIN, cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_COMPLEX,
    cv2.FONT_HERSHEY_TRIPLEX, cv2.FONT_HERSHEY_SCRIPT_SIMPLEX,
)  # fmt: skip
PLACES = {
    "caltech101": "caltech101/101_ObjectCategories and caltech101/Annotations, from Caltech's archive",
    "eurosat": "eurosat/2750, from EuroSAT's archive of RGB images",
}


def transfer_set(source: str, split: Split, size: int | None = None) -> Dataset:
    """The image set that `source` names: `digits`, `caltech101:FOLDER` or `eurosat:FOLDER`, or a folder.

    Neither Caltech101 nor EuroSAT has an official split: a fifth of each class, drawn once, is the test
    split. Any other source is read by `load_image_set` with its splits. size: pixels of a side, of digits.
    Raises InputError that says what to put where when the images are not there; nothing is downloaded.
    """
    name, _, root = expanded(source).partition(":")
    if name == "digits":
        return handwritten_digits(split, size or 32)
    if name in PLACES:
        return _from_torchvision(name, Path(located(root)), split)
    return load_image_set(located(source), split=split)


def handwritten_digits(split: Split, size: int = 32) -> Dataset:
    """1,797 digits written by 13 people, as white on black RGB images of `size` pixels."""
    raw = load_digits()
    rows = np.arange(len(raw.target))[:TUNED] if split == "train" else np.arange(len(raw.target))[TUNED:]
    resized = [cv2.resize(raw.images[row], (size, size), interpolation=cv2.INTER_CUBIC) for row in rows]
    grey = np.clip(np.stack(resized) * (255 / 16), 0, 255).astype(np.uint8)
    columns = {"id": [f"digits-{row:04d}" for row in rows], "source": ["handwritten digits"] * len(rows)}
    images = np.repeat(grey[..., None], 3, axis=3)
    return not_generated(from_arrays(images, raw.target[rows], DIGITS, columns))


def drawn_digits(count: int, seed: int = 0, size: int = 32) -> Dataset:
    """Digits in stroke fonts, of varied size, width and place: what a program makes of the class names."""
    rng = np.random.default_rng(seed)
    images = [_draw(row % 10, rng, size) for row in range(count)]
    columns = {"id": [f"drawn-{seed}-{row:05d}" for row in range(count)]}
    columns |= {"source": ["drawn digits"] * count, "generator": ["stroke fonts"] * count}
    return from_arrays(np.stack(images), [row % 10 for row in range(count)], DIGITS, columns)


def _draw(digit: int, rng: np.random.Generator, size: int) -> np.ndarray:
    font, width = int(rng.choice(FONTS)), int(rng.integers(1, 4))
    scale = size / 32 * rng.uniform(0.8, 1.1) * (1.9 if font == cv2.FONT_HERSHEY_PLAIN else 1)
    (across, high), _ = cv2.getTextSize(str(digit), font, scale, width)
    place = (np.array([size - across, size + high]) / 2 + rng.integers(-2, 3, 2)).astype(int)
    canvas = np.zeros((size, size, 3), np.uint8)
    return cv2.putText(canvas, str(digit), place.tolist(), font, scale, (255,) * 3, width, cv2.LINE_AA)


def _from_torchvision(name: str, root: Path, split: Split) -> Dataset:
    try:
        found = _caltech101(root) if name == "caltech101" else _eurosat(root)
    except (RuntimeError, OSError) as error:
        raise InputError(
            f"{name}: {root} does not hold the images ({error}); put into it {PLACES[name]}"
        ) from error
    paths, labels, names = found
    parts = train_test_split(np.arange(len(labels)), test_size=0.2, random_state=0, stratify=labels)
    rows = np.sort(parts[SPLITS.index(split)])
    chosen = [paths[row] for row in rows]
    ds = from_paths(root, chosen, chosen, pd.Series(labels)[rows], pd.DataFrame(index=rows))
    return not_generated(finish_image_set(classify(ds, names, name), f"{name} {split}"))


def _caltech101(root: Path) -> Listing:
    """The photographs, without the class of background, which torchvision leaves out too."""
    found = Caltech101(root)
    where = "caltech101/101_ObjectCategories"
    names = [found.categories[label] for label in found.y]
    paths = [
        f"{where}/{name}/image_{number:04d}.jpg" for name, number in zip(names, found.index, strict=True)
    ]
    return paths, list(found.y), found.categories


def _eurosat(root: Path) -> Listing:
    found = EuroSAT(root)
    paths, labels = zip(*found.samples, strict=True)
    return [str(Path(path).relative_to(root)) for path in paths], list(labels), found.classes
