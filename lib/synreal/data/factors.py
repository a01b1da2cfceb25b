"""The factors of a scene, and the captions that mention some of them."""

import re
import zlib
from dataclasses import dataclass

import numpy as np

from synreal.data.sprites import CLASS_NAMES

# How rare each rare value is (share of all images). The factors are drawn independently.
RATES = {
    "smaller": 0.04, "larger": 0.04, "darker": 0.03, "brighter": 0.03, "pose": 0.04, "shape": 0.03,
    "partial_view": 0.03, "background": 0.04, "color": 0.04, "pattern": 0.04, "texture": 0.03,
    "object_blocking": 0.03, "person_blocking": 0.045, "style": 0.02, "multiple_objects": 0.03,
}  # fmt: skip
_CHANCES = np.array(list(RATES.values()))


@dataclass(frozen=True)
class Factors:
    """What one scene shows. Lengths are shares of the image side; `exposure` is in stops (EV)."""

    label: int
    sprite: int
    flip: bool
    scale: float  # longer side of the object; bulk 0.58 to 0.90
    aspect: float  # stretch of width over height; bulk 0.9 to 1.1
    rotation: float  # degrees; bulk -15 to 15
    center_x: float
    center_y: float
    hue: float  # garment, 0 to 1
    saturation: float  # garment; bulk below 0.4
    motif: str  # plain | stripes | checks | dots
    grain: float  # amplitude of the surface texture; bulk below 0.1
    clutter: float  # contrast of the background; bulk below 0.2
    blocker: str  # none | object
    person: str  # none | beside | in front
    drawing: bool
    second_label: int  # class of a second, smaller object; -1 when there is none
    exposure: float  # EV; bulk -0.6 to 0.6


# A factor is present when the exact value lies in its rare tail.
TAILS = {
    "smaller": lambda f: f.scale < 0.52,
    "larger": lambda f: f.scale > 0.98,
    "darker": lambda f: f.exposure < -1.2,
    "brighter": lambda f: f.exposure > 0.7,
    "pose": lambda f: abs(f.rotation) > 30,
    "shape": lambda f: not 0.75 < f.aspect < 1.33,
    "partial_view": lambda f: max(abs(f.center_x - 0.5), abs(f.center_y - 0.5)) > 0.25,
    "background": lambda f: f.clutter > 0.4,
    "color": lambda f: f.saturation > 0.6,
    "pattern": lambda f: f.motif != "plain",
    "texture": lambda f: f.grain > 0.3,
    "object_blocking": lambda f: f.blocker == "object",
    "person_blocking": lambda f: f.person == "in front",
    "style": lambda f: f.drawing,
    "multiple_objects": lambda f: f.second_label >= 0,
}


def draw_factors(index: int, split: str, seed: int = 0) -> Factors:
    """The factors of scene `index`; labels cycle through the ten classes."""
    rng, label = stream(seed, split, index, 0), index % len(CLASS_NAMES)
    rare = dict(zip(RATES, (rng.random(len(RATES)) < _CHANCES).tolist(), strict=True))
    u, n, sign = rng.random(9), np.clip(rng.standard_normal(6), -2.4, 2.4), 1 - 2 * rng.integers(2, size=4)
    scale = 0.74 + 0.066 * n[0]
    if rare["larger"]:
        scale = 1.02 + 0.28 * u[0]
    elif rare["smaller"]:
        scale = 0.28 + 0.22 * u[0]
    exposure = 0.25 * n[1]
    if rare["brighter"]:
        exposure = 0.8 + 0.5 * u[1]
    elif rare["darker"]:
        exposure = -1.3 - 0.9 * u[1]
    center = 0.5 + 0.04 * n[2:4]
    if rare["partial_view"]:
        center[int(u[2] < 0.5)] = 0.5 + sign[0] * (0.28 + 0.12 * u[3])
    person = "in front" if rare["person_blocking"] else "beside" if u[8] < 0.05 else "none"
    return Factors(
        label=label,
        sprite=int(rng.integers(1 << 30)),
        flip=bool(sign[1] > 0),
        scale=float(scale),
        aspect=float((1.4 + 0.3 * u[4]) ** sign[2] if rare["shape"] else 1 + 0.04 * n[4]),
        rotation=float(sign[3] * (35 + 145 * u[5]) if rare["pose"] else 6 * n[5]),
        center_x=float(center[0]),
        center_y=float(center[1]),
        hue=float(rng.random()),
        saturation=float(0.65 + 0.35 * u[6] if rare["color"] else 0.35 * u[6]),
        motif=str(rng.choice(["stripes", "checks", "dots"])) if rare["pattern"] else "plain",
        grain=float(0.4 + 0.4 * u[7] if rare["texture"] else 0.08 * u[7]),
        clutter=float(0.5 + 0.5 * rng.random() if rare["background"] else 0.15 * rng.random()),
        blocker="object" if rare["object_blocking"] else "none",
        person=person,
        drawing=rare["style"],
        second_label=int((label + rng.integers(1, 10)) % 10) if rare["multiple_objects"] else -1,
        exposure=float(exposure),
    )


def flags(factors: Factors) -> dict[str, bool]:
    """Which of ImageNet-X's factors this scene shows."""
    return {name: bool(test(factors)) for name, test in TAILS.items()}


FACTOR_NAMES = tuple(TAILS)


def stream(seed: int, split: str, index: int, purpose: int) -> np.random.Generator:
    """A counter-based generator, cheap to make; `purpose`: 0 factors, 1 pixels, 2 caption."""
    key = (seed << 32) | zlib.crc32(split.encode())
    return np.random.Generator(np.random.Philox(key=key, counter=[0, 0, purpose, index]))


# Captions of scenes: a small grammar that names the class and mentions what else is there only sometimes.


COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
OPENINGS = ("a photo of a {}", "a {}", "picture of a {}", "my new {}", "{} for sale", "this is a {}")
_BEFORE = {
    "smaller": ("small {}", "tiny {}"),
    "larger": ("large {}", "huge {}"),
    "texture": ("grainy {}", "rough {}"),
    "shape": ("stretched {}",),
    "pose": ("tilted {}", "rotated {}"),
    "style": ("drawing of a {}",),
}
_AFTER = {
    "darker": ("in the dark", "in a dark environment"),
    "brighter": ("in bright light", "in a bright environment"),
    "background": ("on a messy background", "with colourful blotches behind"),
    "partial_view": ("cut by the frame", "partly out of view"),
    "object_blocking": ("behind a box", "hidden by something"),
    "person_blocking": ("with a person in front", "occluded by human body"),
}
MENTIONED = 0.5  # chance that a rare factor is mentioned
COLOUR_MENTIONED = 0.25  # chance that an ordinary colour is


def caption(factors: Factors, rng: np.random.Generator) -> str:
    """One caption, lower case, such as "a photo of a small red sneaker in the dark"."""
    shown = [name for name, present in flags(factors).items() if present and rng.random() < MENTIONED]
    thing = CLASS_NAMES[factors.label]
    if factors.saturation > 0.15 and ("color" in shown or rng.random() < COLOUR_MENTIONED):
        thing = f"{COLOURS[int(factors.hue * 8 + 0.5) % 8]} {thing}"
    if "pattern" in shown:
        thing = {"stripes": "striped {}", "checks": "checked {}", "dots": "dotted {}"}[factors.motif].format(
            thing
        )
    for name in (n for n in _BEFORE if n in shown):
        thing = str(rng.choice(_BEFORE[name])).format(thing)
    if "multiple_objects" in shown:
        thing = f"{thing} and a {CLASS_NAMES[factors.second_label]}"
    if factors.person == "beside" and rng.random() < MENTIONED:
        thing = f"{thing} next to a person"
    text = str(rng.choice(OPENINGS)).format(thing)
    text = " ".join([text, *(str(rng.choice(_AFTER[name])) for name in _AFTER if name in shown)])
    return re.sub(r"\ba (?=[aeiou])", "an ", text)


def captions(scenes: list[Factors], split: str, seed: int = 0, start: int = 0) -> list[str]:
    """The captions of scenes `start`, `start + 1`, ...; one in five also leads with the class, as tags do."""
    texts = []
    for index, factors in enumerate(scenes, start):
        rng = stream(seed, split, index, 2)
        text = caption(factors, rng)
        texts.append(class_caption(factors.label, text) if rng.random() < 0.2 else text)
    return texts


def class_caption(label: int, text: str) -> str:
    """P1's IN-Caption prompt (sec. 3): the class name, a comma, the caption."""
    return f"{CLASS_NAMES[label]}, {text}"
