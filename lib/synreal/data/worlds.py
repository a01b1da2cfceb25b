"""What a notebook opens by name: scenes, published sets, own images; their groups, factors and pools."""

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from datasets import Dataset

from synreal.data.decode import to_arrays
from synreal.data.factors import FACTOR_NAMES
from synreal.data.hierarchy import PHOTO_GROUPS, PHOTO_PAIRS, SCENES_HIERARCHY, Hierarchy
from synreal.data.imageset import Unreadable, class_names, load_image_set, match_classes, mixed_classes
from synreal.data.photos import open_photos
from synreal.data.published import (
    cifar10,
    cmc_classes,
    imagenet1k,
    imagenet100,
    imagenet_x_factors,
    imagenetv2,
    imagenetx,
)
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
_SCENES, _PHOTOS = re.compile(r"scenes/(\w+)"), re.compile(r"photos/([\w-]+)")


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

    source: `scenes/test` (or upstream, train, val) with `count` scenes of `seed`; `photos/test` (or real,
    synthetic, test-A, test-B), once `synreal get photos` has fetched them; a preset with the folder where it
    lies, such as `imagenetx:$IMAGENET` or `cifar10:data`; or anything `load_image_set` takes.
    Variables of the environment are filled in.
    hierarchy: "auto" (the world's own, if it has one), "photos/pairs" (of photographs that are easily
    confused), "none", or a YAML file of coarse groups.
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
    if match := _PHOTOS.fullmatch(place):
        return open_photos(match[1], unreadable)
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
    if choice == PHOTO_PAIRS.name:
        return PHOTO_PAIRS.restricted_to(class_names(images))
    if choice != "auto":
        return Hierarchy.from_yaml(Path(choice))
    if _SCENES.fullmatch(place):
        return SCENES_HIERARCHY
    if _PHOTOS.fullmatch(place):
        return PHOTO_GROUPS
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


# Labelled images in memory, from which a data experiment chooses rows.


@dataclass(frozen=True, eq=False)
class Pool:
    """images: uint8 [N, H, W, 3]; labels: int64 [N], numbers of class_names; real: bool [N]; ids: str [N]."""

    name: str
    images: np.ndarray
    labels: np.ndarray
    real: np.ndarray
    ids: np.ndarray
    class_names: tuple[str, ...]

    @classmethod
    def of(
        cls, name: str, real: Dataset, synthetic: Dataset | None = None, size: int | None = None
    ) -> "Pool":
        """A pool of real images and, below them, synthetic ones of the same classes.

        size: pixels of a side, see `to_arrays`. Raises InputError when the classes differ.
        """
        parts = [real]
        if synthetic is not None:
            parts.append(match_classes(real, synthetic, ("the real set", "the synthetic set")))
        arrays = [to_arrays(part, size) for part in parts]
        images, labels = (np.concatenate(columns) for columns in zip(*arrays, strict=True))
        return cls(
            name=name,
            images=images,
            labels=labels,
            real=np.repeat([True, False][: len(parts)], [len(part) for part in parts]),
            ids=np.concatenate([np.array(part["id"][:], dtype=str) for part in parts]),
            class_names=tuple(class_names(real)),
        )

    @cached_property
    def digests(self) -> np.ndarray:
        """Eight bytes of hash for each row's image, label and kind."""
        marks = np.stack([self.labels, self.real], axis=1).astype(np.int64)
        rows = zip(self.images, marks, strict=True)
        return _hashes(image.tobytes() + m.tobytes() for image, m in rows)

    @cached_property
    def origins(self) -> np.ndarray:
        """As `digests`, but of scenes by their ids: processors round a few of their pixels differently."""
        found = self.digests.copy()
        if self.name.startswith("scenes/"):
            drawn = f"{self.name} {self.images.shape[1]}"
            found[self.real] = _hashes(f"{drawn} {scene}".encode() for scene in self.ids[self.real])
        return found

    def choose(self, *, real: bool, per_class: int | Sequence[int], seed: int) -> np.ndarray:
        """Rows of randomly chosen images of one kind, `per_class` of each class (or one count for each).

        Choices of the same seed are nested: fewer images are part of more. Raises InputError where a class
        has fewer images than asked for.
        """
        counts = np.broadcast_to(per_class, len(self.class_names))
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(self.labels))
        chosen = []
        for label, count in enumerate(counts):
            own = order[(self.labels[order] == label) & (self.real[order] == real)]
            if len(own) < count:
                raise InputError(
                    f"{self.name}: class {self.class_names[label]} has {len(own)} "
                    f"{'real' if real else 'synthetic'} images, {count} are asked for; "
                    "ask for fewer or open a larger set"
                )
            chosen.append(own[:count])
        return np.concatenate(chosen)


def _hashes(rows: Iterable[bytes]) -> np.ndarray:
    parts = [hashlib.blake2b(row, digest_size=8).digest() for row in rows]
    return np.frombuffer(b"".join(parts), dtype=np.uint64)


def open_pool(real_set: str, count: int, synthetic_set: str, size: int) -> Pool:
    """Real images, and below them those of the synthetic set, a folder or file seen from the repository."""
    real = mixed_classes(open_world(real_set, count).images)
    synthetic = mixed_classes(open_world(synthetic_set, hierarchy="none").images)
    return Pool.of(real_set, real, synthetic, size)


def unbalanced(total: int, classes: int) -> np.ndarray:
    """Images per class, `total` in all, that grow linearly from 21/40 to 59/40 of the mean (P1 App. B)."""
    shares = np.linspace(21, 59, classes) / 40 * total / classes
    return np.diff(np.round(np.cumsum(shares)).astype(int), prepend=0)
