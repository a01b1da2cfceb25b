"""Interventions: the scenes world rendered again with chosen defects at chosen severities.

P1 argues that defects of synthetic data cause those of its classifiers (sec. 3, Fig. 1). Here a defect can be
set while all else stays as it was: an image keeps its background, sprite draw, colours and place, and only
the defective factor is changed. Each image's chance is drawn once for all severities, so that an image
confused at severity 0.2 is confused in the same way at 0.5.
"""

from dataclasses import dataclass, fields, replace

from datasets import Dataset

from synreal.data.decode import from_arrays
from synreal.data.factors import Factors, captions, class_caption, draw_factors, stream
from synreal.data.hierarchy import SCENES_HIERARCHY
from synreal.data.scenes import compose_all
from synreal.data.sprites import CLASS_NAMES
from synreal.errors import InputError

MEDIAN_SCALE, MEDIAN_EXPOSURE = 0.74, 0.0  # of `draw_factors`, whose tails hold as many scenes on both sides
PURPOSE = 3  # of the random stream: 0 to 2 are the factors, pixels and captions of the scene itself
SIMILAR = {  # by label, the other labels of its coarse group
    label: [int(other) for other in classes if other != label]
    for classes in SCENES_HIERARCHY.members(CLASS_NAMES).values()
    for label in classes.tolist()
}


@dataclass(frozen=True)
class Defects:
    """Severities from 0 (the world as it is) to 1. Raises InputError for any other."""

    confusion: float = 0.0  # chance that another class of the coarse group is shown than was asked for
    scale: float = 0.0  # share of the distance to the median size that is taken away
    brightness: float = 0.0  # the same for exposure
    person: float = 0.0  # chance that a person is removed

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
                raise InputError(
                    f"Defects: found {field.name} = {value!r}, expected a severity from 0 (none) to 1 (full)"
                )

    def describe(self) -> str:
        """The severities above 0, such as "confusion 0.2 + person 1", or "none"."""
        severities = {field.name: getattr(self, field.name) for field in fields(self)}
        return " + ".join(f"{name} {value:g}" for name, value in severities.items() if value) or "none"


def rerendered_set(
    split: str,
    count: int,
    defects: Defects = Defects(),
    seed: int = 0,
    start: int = 0,
    sprites_folder: str | None = None,
) -> Dataset:
    """Scenes `start` .. `start + count` with the defects, as an image set of source "re-rendered".

    `label` is the class that was asked for and `true_label` (a number of the same classes) the one shown;
    they differ under confusion alone. `prompt` is P1's IN-Caption of the scene that was asked for (class,
    caption). `defects` says in words what was done, `severity_confusion` and the like in numbers. The other
    columns are those of `scenes.scene_set`, with the truth of what is shown and the scene's own id, so that
    sets of several severities compare image by image.
    Raises InputError for an unknown split.
    """
    asked = [draw_factors(index, split, seed) for index in range(start, start + count)]
    shown = [defective(scene, index, split, defects, seed) for index, scene in enumerate(asked, start)]
    images, truth = compose_all(enumerate(shown, start), split, seed, sprites_folder)
    texts = captions(asked, split, seed, start)
    columns = truth.rename(columns={"label": "true_label"}).to_dict("list") | {
        "source": ["re-rendered"] * count,
        "generator": ["scenes"] * count,
        "seed": [seed] * count,
        "prompt": [class_caption(scene.label, text) for scene, text in zip(asked, texts, strict=True)],
        "defects": [defects.describe()] * count,
        **{f"severity_{name}": [float(value)] * count for name, value in vars(defects).items()},
    }
    return from_arrays(images, [scene.label for scene in asked], CLASS_NAMES, columns)


def defective(scene: Factors, index: int, split: str, defects: Defects, seed: int = 0) -> Factors:
    """What scene `index` shows under the defects; `label` becomes the class shown.

    A class that is alone in its coarse group has none to be confused with and stays. Removing a person lets
    what is drawn after it (grain, a second object or a blocker, sensor noise) fall anew.
    """
    confused, which, removed = stream(seed, split, index, PURPOSE).random(3)
    similar = SIMILAR[scene.label]
    return replace(
        scene,
        label=similar[int(which * len(similar))] if similar and confused < defects.confusion else scene.label,
        scale=_pulled(scene.scale, MEDIAN_SCALE, defects.scale),
        exposure=_pulled(scene.exposure, MEDIAN_EXPOSURE, defects.brightness),
        person="none" if removed < defects.person else scene.person,
    )


def _pulled(value: float, median: float, severity: float) -> float:
    # Interpolated, so that 0 leaves every bit of the value as it was and 1 gives the median itself.
    return float((1 - severity) * value + severity * median)
