"""Recipes by name: P1's and P2's numbers, epochs to steps, and refusals."""

import pytest

from synreal.errors import InputError
from synreal.models import load_card
from synreal.train.recipes import (
    PRESETS,
    REALTUNE_CLIP,
    REALTUNE_VIT,
    Recipe,
    changed_recipe,
    default_recipe,
    for_epochs,
    named_recipe,
)

# name, images: steps, batch, learning rate, optimizer, weight decay, warm-up
PAPERS = {
    ("p1-clip", 40_000): (15_600, 128, 5e-6, "adamw", 0.01, 1000),
    ("p1-vit", 40_000): (4_680, 256, 3e-2, "sgd", 0.0, 0),
    ("p1-resnet18-pretrain", 110_000): (100_000, 128, 0.1, "sgd", 1e-4, 0),
    ("p1-resnet18-tune", 10_000): (2_000, 128, 1e-3, "sgd", 0.0, 0),
    ("p1-vit-tiny-pretrain", 110_000): (30_000, 512, 5e-4, "adamw", 0.05, 1000),
    ("p1-vit-tiny-tune", 10_000): (3_000, 256, 1e-5, "sgd", 0.0, 0),
    ("p2", 20_000): (1_170, 512, 1e-5, "adamw", 0.1, 500),
    ("p2-imagenet", 100_000): (1_950, 512, 1e-6, "adamw", 0.1, 500),
    ("p2-probe", 20_000): (15_600, 256, 1e-2, "adamw", 0.1, 200),
    ("p2-probe-imagenet", 100_000): (15_600, 256, 1e-3, "adamw", 0.0, 200),
}


@pytest.mark.parametrize(("named", "numbers"), PAPERS.items())
def test_presets_hold_the_papers_numbers(named, numbers):
    recipe = named_recipe(*named)
    found = (
        recipe.steps, recipe.batch_size, recipe.learning_rate, recipe.optimizer, recipe.weight_decay,
        recipe.warmup_steps,
    )  # fmt: skip
    assert found == numbers


def test_epochs_become_steps_without_the_last_smaller_batch():
    assert for_epochs(Recipe(0, 128), 50, 40_000).steps == 50 * 312
    assert for_epochs(Recipe(0, 128), 2, 100).steps == 2  # fewer images than a batch: one step sees them all
    assert for_epochs(Recipe(0, 128), 0.5, 1280).steps == 5


def test_defaults_follow_library_and_size():
    assert default_recipe(load_card("ViT-Syn-12k"), 500) == PRESETS["scenes-vit"].recipe
    assert default_recipe(load_card("CLIP-Syn-24k"), 500) == PRESETS["scenes-clip"].recipe
    assert default_recipe(load_card("ViT-Syn-1M"), 40_000) == REALTUNE_VIT
    assert default_recipe(load_card("CLIP-Syn-371M"), 40_000) == REALTUNE_CLIP


def test_changes_replace_a_preset_and_bad_ones_are_refused():
    card = load_card("ViT-Syn-12k")
    recipe = changed_recipe(card, 500, "p1-vit", steps=10, learning_rate=None, seed=0)
    assert (recipe.steps, recipe.learning_rate, recipe.seed) == (10, 3e-2, 0)
    assert named_recipe("p1-clip", 300).steps == 100 and named_recipe("p1-clip", 300).warmup_steps == 10
    with pytest.raises(InputError, match="learning_rate: found 0, expected a number above 0"):
        changed_recipe(card, 500, None, learning_rate=0)
    with pytest.raises(InputError, match="recipe: found 'p3', expected one of p1-clip, p1-vit"):
        changed_recipe(card, 500, "p3")
