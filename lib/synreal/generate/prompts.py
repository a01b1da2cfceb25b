"""The prompts of P1's factor F2 (sec. 3, Appendix A.1): what is added to "class, caption", and where.

The captions of the scenes world speak of size, light and persons in the same words, so its generator follows
the same prompts. P1's example for persons also ends "in a bright environment"; its rule does not say so, and
here the two are separate studies.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Literal

from synreal.errors import InputError

Style = Literal["caption", "class", "scale", "brightness", "person"]

# The images of a class take the templates of a style in turn, so each gets a third of them, or all.
TEMPLATES: dict[Style, tuple[str, ...]] = {
    "caption": ("{name}, {caption}",),  # IN-Caption, P1's default
    "class": ("{name}",),
    "scale": ("large {name}, {caption}", "small {name}, {caption}", "{name}, {caption}"),
    "brightness": (
        "{name}, {caption} in a bright environment",
        "{name}, {caption} in a dark environment",
        "{name}, {caption}",
    ),
    "person": ("{name} occluded by human body, {caption}",),
}


def make_prompts(class_names: Sequence[str], captions: Sequence[str], style: Style) -> list[str]:
    """One prompt per image, from the name of its class and its caption.

    The templates of a style alternate within each class, and begin one later in each next class, so that each
    gets its share of every class and of the whole, whatever the order of the images.
    Raises InputError for an unknown style, lists of different lengths, and empty captions where the style
    needs them.
    """
    if style not in TEMPLATES:
        raise InputError(f"style: found {style!r}, expected one of {', '.join(TEMPLATES)}")
    templates = TEMPLATES[style]
    _check(class_names, captions, needed=any("{caption}" in template for template in templates))
    shift = {name: number for number, name in enumerate(dict.fromkeys(class_names))}
    seen: Counter[str] = Counter()
    prompts = []
    for name, caption in zip(class_names, captions, strict=True):
        template = templates[(shift[name] + seen[name]) % len(templates)]
        prompts.append(template.format(name=name, caption=caption.rstrip(" .")))
        seen[name] += 1
    return prompts


def _check(class_names: Sequence[str], captions: Sequence[str], needed: bool) -> None:
    if len(captions) != len(class_names):
        raise InputError(f"captions: found {len(captions)} for {len(class_names)} images, expected one each")
    empty = [row for row, caption in enumerate(captions) if not caption.strip(" .")]
    if empty and needed:
        raise InputError(
            f"captions: {len(empty)} of {len(captions)} are empty, the first in row {empty[0]}; caption "
            "these images again or leave them out"
        )
