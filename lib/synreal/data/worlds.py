"""What a notebook examines classifiers on, by name: images, their coarse groups and their factors."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from datasets import Dataset

from synreal.data.cifar import cifar10
from synreal.data.factors import FACTOR_NAMES
from synreal.data.hierarchy import SCENES_HIERARCHY, Hierarchy
from synreal.data.imagenet import cmc_classes, imagenet1k, imagenet100, imagenetv2, imagenetx
from synreal.data.imagenetx import imagenet_x_factors
from synreal.data.imageset import Unreadable, class_names, load_image_set, mixed_classes
from synreal.data.scenes import factor_table, scene_set
from synreal.data.sprites import SPLITS
from synreal.errors import InputError
from synreal.paths import expanded, located

PRESETS: dict[str, Callable[..., Dataset]] = {  # of a folder, and of `unreadable` as `load_image_set` has it
    "cifar10": cifar10,
    "imagenet1k": imagenet1k,
    "imagenet1k-train": lambda root, **options: imagenet1k(root, "train", **options),
    "imagenet100": lambda root, **options: imagenet100(root, cmc_classes(), **options),
    "imagenetv2": imagenetv2,
    "imagenetx": imagenetx,
}
_SCENES = re.compile(r"scenes/(\w+)")


@dataclass(frozen=True)
class World:
    """A labelled image set with what is known of it beyond the labels."""

    name: str
    images: Dataset
    hierarchy: Hierarchy | None  # coarse groups, for fine-grained accuracy
    factors: pd.DataFrame | None  # bool, one column per factor, indexed by image id
    clusters: pd.Series | None = None  # what several images show, such as one photograph, indexed by image id


def open_world(
    source: str,
    count: int | None = None,
    seed: int = 0,
    hierarchy: str = "auto",
    name: str | None = None,
    unreadable: Unreadable = "stop",
) -> World:
    """The world that `source` names.

    source: `scenes/test` (or upstream, train, val) with `count` scenes of `seed`; a preset with the folder
    where it lies, such as `imagenetx:$IMAGENET` or `cifar10:data`; or anything `load_image_set` takes.
    Variables of the environment are filled in.
    hierarchy: "auto" (the world's own, if it has one), "none", or a YAML file of coarse groups.
    name: what results call it; default: the source as it was asked for.
    unreadable: "stop" refuses a set with images that cannot be decoded, "drop" leaves them out and says so.
    Raises InputError for an unknown split, a variable that is not set, and whatever loading refuses.
    """
    place = expanded(source)
    if match := _SCENES.fullmatch(place):
        if match[1] not in SPLITS or count is None or count < 1:
            splits = ", ".join(SPLITS)
            raise InputError(
                f"{source}: found count {count}; expected scenes/ and one of {splits}, with a count above 0"
            )
        images = scene_set(match[1], count, seed)
    else:
        images = _stored(place, unreadable)
    # Named as it was asked for, not as expanded, so that no machine's path enters a result.
    groups, factors = _hierarchy(hierarchy, place, images), _factors(place, images)
    return World(name or source, images, groups, factors, _clusters(images))


def first_images(world: World, count: int) -> Dataset:
    """`count` images of a world, of many classes even where it lists them class by class.

    Raises InputError when it has fewer.
    """
    if len(world.images) < count:
        raise InputError(f"{world.name}: found {len(world.images)} images, expected {count} or more")
    return mixed_classes(world.images).select(range(count))


def _stored(place: str, unreadable: Unreadable) -> Dataset:
    if preset := _preset(place):
        return PRESETS[preset](located(place.partition(":")[2]), unreadable=unreadable)
    return load_image_set(located(place), unreadable=unreadable)


def _preset(place: str) -> str:
    """The preset that a source such as `imagenetx:folder` names; empty for a folder called like one."""
    name, colon, _ = place.partition(":")
    return name if colon and name in PRESETS else ""


def _hierarchy(choice: str, place: str, images: Dataset) -> Hierarchy | None:
    if choice == "none":
        return None
    if choice != "auto":
        return Hierarchy.from_yaml(Path(choice))
    if _SCENES.fullmatch(place):
        return SCENES_HIERARCHY
    if _preset(place).startswith("imagenet"):
        return Hierarchy.imagenet_x().restricted_to(class_names(images))
    return None


def _factors(place: str, images: Dataset) -> pd.DataFrame | None:
    """ImageNet-X's annotations, or the factor columns that the set itself carries."""
    if _preset(place) == "imagenetx":
        return imagenet_x_factors()
    kinds = {name: getattr(images.features.get(name), "dtype", "") for name in FACTOR_NAMES}
    carried = [name for name, kind in kinds.items() if kind.startswith(("bool", "int", "uint", "float"))]
    return factor_table(images, carried) if carried else None


def _clusters(images: Dataset) -> pd.Series | None:
    if "cluster" not in images.column_names:
        return None
    return pd.Series(images["cluster"][:], index=pd.Index(images["id"][:], name="id"), name="cluster")
