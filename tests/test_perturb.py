"""SDEdit: seeds, strengths, and what the set says of its images."""

import numpy as np
import pytest
from diffusers import StableDiffusionImg2ImgPipeline

from synreal.data.decode import to_arrays
from synreal.data.imageset import check_image_set
from synreal.data.scenes import scene_set
from synreal.errors import InputError
from synreal.generate.backends import load_diffusers
from synreal.generate.sample import Sampling, perturb, perturbed_set
from synreal.paths import zoo_dir

GENERATOR = zoo_dir() / "generator"
FEW = Sampling(steps=5)


@pytest.fixture(scope="module")
def pipeline():
    return load_diffusers(StableDiffusionImg2ImgPipeline, GENERATOR)


@pytest.fixture(scope="module")
def images():
    return scene_set("val", 6)


def test_a_higher_strength_leaves_less_of_the_image(images):
    before = to_arrays(images)[0].astype(float)
    moved = [
        np.abs(to_arrays(perturbed_set(images, GENERATOR, strength, FEW))[0] - before).mean()
        for strength in (0.2, 1.0)
    ]
    assert 0 < moved[0] < moved[1]


def test_an_image_does_not_depend_on_its_neighbours(pipeline, images):
    pixels, seeds, prompts = to_arrays(images)[0], [7, 8, 9], ["a photo of a bag"] * 3
    together = perturb(pipeline, pixels[:3], prompts, seeds, 0.6, steps=5)
    alone = perturb(pipeline, pixels[2:3], prompts[:1], seeds[2:], 0.6, steps=5)
    apart = perturb(pipeline, pixels[:3], prompts, seeds, 0.6, steps=5, batch_size=2)
    assert np.abs(together[2:].astype(int) - alone).max() <= 1  # the last bit may round otherwise
    assert np.abs(together.astype(int) - apart).max() <= 1
    other = perturb(pipeline, pixels[2:3], prompts[:1], [10], 0.6, steps=5)
    assert np.abs(other.astype(int) - alone).max() > 10


def test_the_set_says_what_it_was_made_of(images):
    found = perturbed_set(images, GENERATOR, 0.4, FEW)
    check_image_set(found, "perturbed")
    assert found["perturbed"][:] == images["id"][:] and found["label"][:] == images["label"][:]
    assert set(found["source"]) == {"perturbed"} and set(found["strength"]) == {0.4}
    names = images.features["label"].names
    assert found["prompt"][0] == f"a photo of a {names[images['label'][0]]}"


def test_images_of_another_size_come_out_at_the_generators(pipeline):
    large = np.full((1, 48, 48, 3), 200, np.uint8)
    assert perturb(pipeline, large, ["a bag"], [0], 0.4, steps=5).shape == (1, 32, 32, 3)


@pytest.mark.parametrize("strength", [0.0, 0.1, 1.5])
def test_a_strength_without_a_step_is_refused(pipeline, strength):
    with pytest.raises(InputError, match=f"strength: found {strength} of 5 steps"):
        perturb(pipeline, np.zeros((1, 32, 32, 3), np.uint8), ["a bag"], [0], strength, steps=5)


def test_lengths_that_differ_are_refused(pipeline):
    with pytest.raises(InputError, match="found 1 images, 2 prompts, 1 seeds"):
        perturb(pipeline, np.zeros((1, 32, 32, 3), np.uint8), ["a", "b"], [0], 0.5, steps=5)
