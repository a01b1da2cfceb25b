"""P2's target tasks with their official splits, where torchvision finds them on disk; nothing is fetched."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from datasets import Dataset
from torchvision.datasets import DTD, FGVCAircraft, Flowers102, StanfordCars

from synreal.data.folders import from_paths
from synreal.data.imagenet import imagenet1k
from synreal.data.imageset import finish_image_set
from synreal.data.kind import not_generated
from synreal.data.labels import classify
from synreal.errors import InputError

Split = Literal["train", "val", "test"]
TORCHVISION: dict[str, Callable[..., Any]] = {
    "aircraft": FGVCAircraft,  # 3,334 / 3,333 / 3,333
    "cars": StanfordCars,  # 8,144 / none / 8,041
    "dtd": DTD,  # 1,880 each, its first partition
    "flowers": Flowers102,  # 1,020 / 1,020 / 6,149
}
HELD_OUT = {"cars": 5, "imagenet": 50}  # no official val: one training image in so many serves
BENCHMARKS = (*sorted(TORCHVISION), "imagenet")


def benchmark(name: str, root: str | Path, split: Split) -> Dataset:
    """One split of a task of P2 as an image set; ids are paths below `root`.

    name: aircraft, cars, dtd, flowers (torchvision's folders in `root`) or imagenet (`root/train`,
    `root/val`). "test" is always what results are reported on: the official test images, and for ImageNet its
    validation images, as everywhere. "val" is official, or, for cars and imagenet, HELD_OUT of train, which
    then lacks these images.
    Raises InputError when the name is unknown or torchvision does not find its files.
    """
    if name not in BENCHMARKS:
        raise InputError(f"benchmark: found {name!r}, expected one of {', '.join(BENCHMARKS)}")
    if name not in HELD_OUT or split == "test":
        return _official(name, Path(root), split)
    images = _official(name, Path(root), "train")
    held_out = np.arange(len(images)) % HELD_OUT[name] == 0
    return images.select(np.flatnonzero(held_out if split == "val" else ~held_out))


def _official(name: str, root: Path, split: Split) -> Dataset:
    if name == "imagenet":
        return imagenet1k(root, "val" if split == "test" else split)
    try:
        # With str as loader torchvision says which files a split has, without opening them.
        source = TORCHVISION[name](str(root), split=split, loader=str)
    except (RuntimeError, OSError) as error:
        raise InputError(
            f"{root}: torchvision finds no {name} ({error}); unpack the published archive there"
        ) from error
    pairs = [source[row] for row in range(len(source))]
    paths = [Path(path).relative_to(root).as_posix() for path, _ in pairs]
    labels = pd.Series([int(label) for _, label in pairs])
    images = from_paths(root, paths, paths, labels, pd.DataFrame(index=labels.index))
    return not_generated(finish_image_set(classify(images, list(source.classes), name), f"{name} {split}"))
