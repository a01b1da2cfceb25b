"""CIFAR-10 as an image set, the `photos` world's preset."""

from pathlib import Path
from typing import Literal

import datasets
import torchvision

from synreal.data.imageset import Unreadable, finish_image_set, from_arrays, load_image_set
from synreal.data.kind import not_generated
from synreal.errors import InputError

TORCHVISION_FOLDER = torchvision.datasets.CIFAR10.base_folder


def cifar10(
    root: str | Path,
    split: Literal["train", "test"] = "test",
    *,
    download: bool = False,
    unreadable: Unreadable = "stop",
) -> datasets.Dataset:
    """CIFAR-10: 50,000 training or 10,000 test photographs of 32x32 pixels in ten classes.

    root: a folder that holds torchvision's `cifar-10-batches-py`, or `train.parquet` and `test.parquet` with
    columns image (JPEG bytes), label, class_name, path. download: torchvision fetches its files into `root`
    (170 MB).
    Ids are "test/00017" in file order from torchvision, and column path from parquet.
    """
    root = Path(root)
    if split not in ("train", "test"):
        raise InputError(f"split: found {split!r}, expected 'train' or 'test'")
    parquet = root / f"{split}.parquet"
    if download or (root / TORCHVISION_FOLDER).is_dir():
        ds = finish_image_set(_from_torchvision(root, split, download), f"CIFAR-10 {split}", unreadable)
        return not_generated(ds)
    if parquet.is_file():
        ds = load_image_set(parquet, unreadable=unreadable)
        named = ds.remove_columns("source").add_column("source", [f"CIFAR-10 {split}"] * len(ds))
        return not_generated(named)
    raise InputError(
        f"{root}: neither {TORCHVISION_FOLDER}/ nor {parquet.name}; expected one of them; give the folder "
        "that holds it, or ask for the download"
    )


def _from_torchvision(root: Path, split: str, download: bool) -> datasets.Dataset:
    try:
        source = torchvision.datasets.CIFAR10(root, train=split == "train", download=download)
    except (RuntimeError, OSError) as error:
        raise InputError(
            f"{root / TORCHVISION_FOLDER}: torchvision cannot read it ({error}); its files must have their "
            "published checksums; fetch them again"
        ) from error
    columns = {
        "id": [f"{split}/{row:05d}" for row in range(len(source.data))],
        "source": [f"CIFAR-10 {split}"] * len(source.data),
    }
    return from_arrays(source.data, source.targets, source.classes, columns)
