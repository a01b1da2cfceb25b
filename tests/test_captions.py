"""Captions name the class always, and what else is there about half of the time."""

import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synreal.data.factors import (
    MENTIONED,
    OPENINGS,
    caption,
    captions,
    class_caption,
    draw_factors,
    flags,
    stream,
)
from synreal.data.sprites import CLASS_NAMES, SPLITS

PLAIN = replace(
    draw_factors(0, "train"),
    scale=0.74, exposure=0.0, rotation=0.0, aspect=1.0, center_x=0.5, center_y=0.5, saturation=0.1,
    motif="plain", grain=0.0, clutter=0.0, blocker="none", person="none", drawing=False, second_label=-1,
)  # fmt: skip
# One change that makes a factor present, and the words that tell of it.
TOLD = {
    "smaller": ({"scale": 0.3}, "small |tiny "),
    "larger": ({"scale": 1.2}, "large |huge "),
    "darker": ({"exposure": -1.5}, "in the dark|in a dark environment"),
    "brighter": ({"exposure": 1.0}, "in bright light|in a bright environment"),
    "pose": ({"rotation": 90.0}, "tilted |rotated "),
    "shape": ({"aspect": 1.6}, "stretched "),
    "partial_view": ({"center_x": 0.9}, "cut by the frame|partly out of view"),
    "background": ({"clutter": 0.8}, "on a messy background|with colourful blotches behind"),
    "color": ({"saturation": 0.9, "hue": 0.0}, "red "),
    "pattern": ({"motif": "dots"}, "dotted "),
    "texture": ({"grain": 0.6}, "grainy |rough "),
    "object_blocking": ({"blocker": "object"}, "behind a box|hidden by something"),
    "person_blocking": ({"person": "in front"}, "with a person in front|occluded by human body"),
    "style": ({"drawing": True}, "drawing of a"),
    "multiple_objects": ({"second_label": 9}, "and an ankle boot"),
}


def test_a_plain_scene_is_told_by_its_class_alone():
    told = {caption(PLAIN, stream(0, "train", index, 2)) for index in range(200)}
    assert told == {opening.format("t-shirt") for opening in OPENINGS}


@pytest.mark.parametrize("factor", TOLD)
def test_a_factor_is_mentioned_about_half_of_the_time(factor):
    change, words = TOLD[factor]
    scene = replace(PLAIN, **change)
    assert [name for name, present in flags(scene).items() if present] == [factor]
    texts = [caption(scene, stream(0, "train", index, 2)) for index in range(600)]
    told = [bool(re.search(words, text)) for text in texts]
    expected = MENTIONED + (1 - MENTIONED) * 0.25 * (factor == "color")  # colours are told of anyway
    assert abs(sum(told) / 600 - expected) < 4 * (0.25 / 600) ** 0.5
    for text, mentioned in zip(texts, told, strict=True):
        assert mentioned or text in {opening.format("t-shirt") for opening in OPENINGS}, text


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 10**6), st.sampled_from(list(SPLITS)), st.integers(0, 1000))
def test_every_caption_names_its_class_in_good_english(index, split, seed):
    scene = draw_factors(index, split, seed)
    [text] = captions([scene], split, seed, start=index)
    assert CLASS_NAMES[scene.label] in text
    assert not re.search(r"\ba [aeiou]|\ban [^aeiou]|  |^ | $|[{}A-Z]", text), text
    assert [text] == captions([scene], split, seed, start=index)


def test_captions_do_not_depend_on_where_the_list_begins():
    scenes = [draw_factors(index, "train") for index in range(60)]
    together = captions(scenes, "train")
    assert together[25:40] == captions(scenes[25:40], "train", start=25)
    assert together != captions(scenes, "train", seed=1)
    assert together[:5] != captions(scenes[:5], "train", start=1)


def test_one_caption_in_five_leads_with_its_class():
    scenes = [draw_factors(index, "upstream") for index in range(1000)]
    texts = captions(scenes, "upstream")
    leads = [
        text.startswith(f"{CLASS_NAMES[scene.label]}, ") for text, scene in zip(texts, scenes, strict=True)
    ]
    assert abs(sum(leads) / 1000 - 0.2) < 4 * (0.16 / 1000) ** 0.5


def test_the_prompt_of_the_papers_is_class_comma_caption():
    assert class_caption(7, "a red sneaker in the dark") == "sneaker, a red sneaker in the dark"


def test_a_vowel_takes_an():
    texts = [caption(replace(PLAIN, label=9), stream(0, "val", index, 2)) for index in range(100)]
    assert "an ankle boot" in texts and "a photo of an ankle boot" in texts
    orange = replace(PLAIN, saturation=0.9, hue=1 / 8)
    assert any("an orange t-shirt" in caption(orange, stream(0, "val", index, 2)) for index in range(100))
