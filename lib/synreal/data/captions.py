"""Captions of scenes: a small grammar that names the class and mentions what else is there only sometimes."""

import re

import numpy as np

from synreal.data.factors import Factors, flags, stream
from synreal.data.sprites import CLASS_NAMES

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
