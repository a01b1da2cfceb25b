"""Prompts of Appendix A.1, in words that the scenes' captions have too."""

import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synreal.data.factors import captions, class_caption, draw_factors, flags
from synreal.data.sprites import CLASS_NAMES
from synreal.errors import InputError
from synreal.generate.prompts import TEMPLATES, make_prompts

FISH = "a man holding a fish"
ADDED = {  # the words of a template, and the factor that a scene's caption tells of with them
    "large": "larger",
    "small": "smaller",
    "in a bright environment": "brighter",
    "in a dark environment": "darker",
    "occluded by human body": "person_blocking",
}


@pytest.mark.parametrize(
    ("style", "prompts"),
    {
        "caption": ["tench, a man holding a fish"] * 3,
        "class": ["tench"] * 3,
        "scale": [
            "large tench, a man holding a fish",
            "small tench, a man holding a fish",
            "tench, a man holding a fish",
        ],
        "brightness": [
            "tench, a man holding a fish in a bright environment",
            "tench, a man holding a fish in a dark environment",
            "tench, a man holding a fish",
        ],
        "person": ["tench occluded by human body, a man holding a fish"] * 3,
    }.items(),
)
def test_the_examples_of_the_paper(style, prompts):
    assert make_prompts(["tench"] * 3, [FISH] * 3, style) == prompts


def test_in_caption_is_what_the_scenes_call_so():
    names = [CLASS_NAMES[label] for label in (7, 0)]
    texts = ["a red sneaker in the dark", "my new t-shirt"]
    assert make_prompts(names, texts, "caption") == [class_caption(7, texts[0]), class_caption(0, texts[1])]


@given(st.lists(st.sampled_from(["tench", "hen", "wombat", "cup {0}"]), max_size=60))
def test_every_class_and_the_whole_are_cut_in_thirds(names):
    prompts = make_prompts(names, [FISH] * len(names), "scale")
    words = [prompt.removesuffix(f"{name}, {FISH}") for prompt, name in zip(prompts, names, strict=True)]
    assert set(words) <= {"large ", "small ", ""}
    for name in set(names):
        counts = Counter(word for word, other in zip(words, names, strict=True) if other == name)
        sizes = [counts[word] for word in ("large ", "small ", "")]
        assert max(sizes) - min(sizes) <= 1


def test_thirds_are_even_also_with_one_image_per_class():
    prompts = make_prompts([f"class {i}" for i in range(30)], [FISH] * 30, "scale")
    assert sum(prompt.startswith("large ") for prompt in prompts) == 10
    assert sum(prompt.startswith("small ") for prompt in prompts) == 10


def test_scenes_speak_of_the_factors_in_the_words_of_the_prompts():
    scenes = [draw_factors(index, "upstream") for index in range(2000)]
    texts = captions(scenes, "upstream")
    for words, factor in ADDED.items():
        assert any(words in template for templates in TEMPLATES.values() for template in templates)
        told = [scene for scene, text in zip(scenes, texts, strict=True) if re.search(rf"\b{words}\b", text)]
        assert len(told) > 8 and all(flags(scene)[factor] for scene in told)


def test_the_full_stop_of_a_caption_is_not_left_in_the_middle():
    texts = [FISH + ". "]
    assert make_prompts(["tench"], texts, "brightness") == [f"tench, {FISH} in a bright environment"]


def test_the_class_alone_needs_no_captions():
    assert make_prompts(["hen", "cup"], ["", ""], "class") == ["hen", "cup"]


def test_bad_input_is_refused():
    with pytest.raises(InputError, match="style: found 'blur', expected one of caption, class, scale, "):
        make_prompts(["hen"], [FISH], "blur")
    with pytest.raises(InputError, match="captions: found 1 for 2 images, expected one each"):
        make_prompts(["hen", "hen"], [FISH], "scale")
    with pytest.raises(InputError, match="captions: 1 of 2 are empty, the first in row 1"):
        make_prompts(["hen", "hen"], [FISH, " "], "caption")
