"""Coarse groups of fine classes: which classes are hard to tell apart is a question inside a group."""

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np

from synreal.data.published import imagenet_class_names
from synreal.errors import InputError
from synreal.strict_yaml import read_yaml


@dataclass(frozen=True)
class Hierarchy:
    """Coarse groups by name, each a tuple of fine class names; no class is in two groups.

    Raises InputError when there is no group, a group is empty, or a class is listed twice.
    """

    name: str
    groups: Mapping[str, tuple[str, ...]]

    def __post_init__(self) -> None:
        if not self.groups:
            raise InputError(f"hierarchy {self.name!r}: found no group, expected at least one coarse group")
        for coarse, classes in self.groups.items():
            if not classes:
                raise InputError(f"hierarchy {self.name!r}: group {coarse!r} is empty; drop it")
        homes = [(fine, coarse) for coarse, classes in self.groups.items() for fine in classes]
        for fine, count in Counter(fine for fine, _ in homes).items():
            if count > 1:
                where = [coarse for other, coarse in homes if other == fine]
                raise InputError(
                    f"hierarchy {self.name!r}: class {fine!r} is listed {count} times, in {where}; "
                    "every class belongs to exactly one group"
                )

    @classmethod
    def from_yaml(cls, path: str | Path) -> "Hierarchy":
        """The hierarchy of a YAML file with the keys `name` and `groups` (coarse name: list of classes).

        Raises InputError when the file is missing, is not of that form, repeats a group or a class, or
        holds a class name that YAML does not read as text (`no`, `1`: put it in quotes).
        """
        content = _read_mapping(Path(path))
        if set(content) != {"name", "groups"}:
            raise InputError(f"{path}: found the keys {sorted(map(str, content))}, expected name and groups")
        if not isinstance(content["name"], str) or not isinstance(content["groups"], dict):
            raise InputError(f"{path}: name must be text, and groups must map each coarse name to a list")
        groups = {
            _text(path, coarse): _classes(path, coarse, fine) for coarse, fine in content["groups"].items()
        }
        return cls(content["name"], groups)

    @classmethod
    def imagenet_x(cls, class_names: Sequence[str] | None = None) -> "Hierarchy":
        """The 100 metaclasses of ImageNet-1k that the imagenet-x package ships; 63 hold two classes or more.

        Classes are named as in `imagenet1k`; `class_names` gives other names to the 1,000 classes, in the
        standard order, for instance `imagenet_wnids()`. For a subset of ImageNet follow it with
        `restricted_to`. Raises InputError when `class_names` does not hold 1,000 names.
        """
        path = files("imagenet_x") / "annotations" / "imagenet_1k_classes_to_100_metaclasses.csv"
        rows = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8")))
        coarse = [row["name"] for row in rows]
        class_names = imagenet_class_names() if class_names is None else class_names
        if len(class_names) != len(coarse):
            raise InputError(
                f"class_names: found {len(class_names)}, expected the {len(coarse)} of ImageNet-1k"
            )
        groups: dict[str, tuple[str, ...]] = {}
        for name, group in zip(class_names, coarse, strict=True):
            groups[group] = (*groups.get(group, ()), name)
        return cls("imagenet-x metaclasses", groups)

    def members(self, class_names: Sequence[str]) -> dict[str, np.ndarray]:
        """Indices into `class_names` by coarse group: int64, ascending, every class in exactly one group.

        Raises InputError naming the classes that are in no group, and those of the hierarchy that are not
        in `class_names`.
        """
        self._refuse(set(class_names) - self._classes(), "are in no group; add them to a group")
        self._refuse(
            self._classes() - set(class_names),
            "are unknown to the image set; correct their spelling, or take restricted_to(class_names)",
        )
        position = {name: index for index, name in enumerate(class_names)}
        return {
            coarse: np.array(sorted(position[fine] for fine in classes), dtype=np.int64)
            for coarse, classes in self.groups.items()
        }

    def restricted_to(self, class_names: Sequence[str]) -> "Hierarchy":
        """This hierarchy without the classes that are not in `class_names`, and without emptied groups."""
        kept = set(class_names)
        groups = {coarse: tuple(f for f in classes if f in kept) for coarse, classes in self.groups.items()}
        return Hierarchy(self.name, {coarse: classes for coarse, classes in groups.items() if classes})

    def large_group(self, name: str) -> tuple[str, ...]:
        """The classes of a coarse group of two or more; InputError listing these for any other name."""
        several = {coarse: fine for coarse, fine in self.groups.items() if len(fine) > 1}
        if name not in several:
            raise InputError(
                f"hierarchy {self.name!r}: found {name!r}, expected one of {', '.join(several)}, its groups "
                "of two or more classes"
            )
        return several[name]

    def describe(self) -> str:
        """The hierarchy in one sentence's part: its name and its groups, or how many there are."""
        several = [f"{coarse} ({', '.join(fine)})" for coarse, fine in self.groups.items() if len(fine) > 1]
        listed = "; ".join(several) if len(several) <= 5 else f"{len(several)} of two classes or more"
        return f"those of {self.name!r}: {listed}"

    def _classes(self) -> set[str]:
        return {fine for classes in self.groups.values() for fine in classes}

    def _refuse(self, names: set[str], problem: str) -> None:
        if names:
            first = ", ".join(repr(name) for name in sorted(names)[:5])
            more = " ..." if len(names) > 5 else ""
            raise InputError(f"hierarchy {self.name!r}: {len(names)} classes ({first}{more}) {problem}")


def hierarchy_named(name: str, class_names: Sequence[str]) -> Hierarchy:
    """The coarse groups of these classes: scenes, imagenet (ImageNet-X's), or those of a YAML file.

    Raises InputError for a class in no group.
    """
    if name == "scenes":
        groups = SCENES_HIERARCHY
    else:
        groups = Hierarchy.imagenet_x() if name == "imagenet" else Hierarchy.from_yaml(name)
    restricted = groups.restricted_to(class_names)
    restricted.members(class_names)
    return restricted


def _read_mapping(path: Path) -> dict:
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected a YAML file with the keys name and groups")
    content = read_yaml(path, "the keys name and groups")
    if not isinstance(content, dict):
        raise InputError(f"{path}: found {type(content).__name__}, expected the keys name and groups")
    return content


def _classes(path: str | Path, coarse: object, classes: object) -> tuple[str, ...]:
    if not isinstance(classes, list):
        raise InputError(f"{path}: group {coarse!r}: found {classes!r}, expected a list of class names")
    return tuple(_text(path, fine) for fine in classes)


def _text(path: str | Path, value: object) -> str:
    if not isinstance(value, str):
        raise InputError(f"{path}: found the name {value!r}, a {type(value).__name__}; put it in quotes")
    return value


SCENES_HIERARCHY = Hierarchy(
    "scenes",
    {
        "tops": ("t-shirt", "pullover", "coat", "shirt"),
        "footwear": ("sandal", "sneaker", "ankle boot"),
        "long garments": ("trouser", "dress"),
        "bags": ("bag",),
    },
)
# CIFAR-10's ten classes: what they are, and which two are taken for each other most often.
PHOTO_GROUPS = Hierarchy(
    "photos",
    {
        "animals": ("bird", "cat", "deer", "dog", "frog", "horse"),
        "vehicles": ("airplane", "automobile", "ship", "truck"),
    },
)
PHOTO_PAIRS = Hierarchy(
    "photos/pairs",
    {
        "cat or dog": ("cat", "dog"),
        "deer or horse": ("deer", "horse"),
        "automobile or truck": ("automobile", "truck"),
        "airplane or ship": ("airplane", "ship"),
    },
)
