"""Recipes: how to train, and the papers' own ones by name."""

from dataclasses import dataclass, replace
from typing import Literal

from synreal.models.card import Card


@dataclass(frozen=True)
class Recipe:
    """How to train; the defaults are those of a small model trained from scratch."""

    steps: int
    batch_size: int = 128  # images per step, over all processes
    learning_rate: float = 1e-3
    optimizer: Literal["adamw", "sgd"] = "adamw"
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.999)  # of AdamW; SGD uses momentum 0.9
    warmup_steps: int = 100  # then a cosine down to zero
    clip_norm: float = 1.0
    ema_decay: float | None = None  # average the weights, and return the average
    precision: Literal["no", "bf16"] = "no"
    checkpoint_every: int = 250  # steps
    seed: int = 0
    # images that go through the network at once, on one device: the gradients of a step are summed over such
    # parts. A contrastive loss then compares within a part only.
    micro_batch: int | None = None


def for_epochs(recipe: Recipe, epochs: float, count: int) -> Recipe:
    """The recipe with the steps of so many passes over `count` images; a last, smaller batch is left out."""
    per_epoch = count // min(recipe.batch_size, count)
    return replace(recipe, steps=round(epochs * per_epoch))


P1_IMAGES = 40_000  # RealTune's real images: 3 % of ImageNet

# P1 sec. 4.1. Unsaid there: weight decay (PyTorch's default for AdamW; none for SGD, as ViTs are tuned),
# the clipping of gradients and bf16.
REALTUNE_CLIP = for_epochs(
    Recipe(0, 128, 5e-6, weight_decay=0.01, warmup_steps=1000, precision="bf16"), 50, P1_IMAGES
)
REALTUNE_VIT = for_epochs(
    Recipe(0, 256, 3e-2, "sgd", weight_decay=0.0, warmup_steps=0, precision="bf16"), 30, P1_IMAGES
)

# The scenes in small; learning rates and steps were chosen on validation scenes.
SCENES_VIT = Recipe(120, 64, 5e-4, weight_decay=0.05, warmup_steps=10, checkpoint_every=50)
SCENES_CLIP = Recipe(120, 64, 2e-4, weight_decay=0.1, warmup_steps=10, checkpoint_every=50)


def default_recipe(card: Card, count: int) -> Recipe:
    """The recipe for a checkpoint of which nothing else is said: P1's own, or for scenes that in small."""
    clip = card.library == "open_clip"
    if card.image_size <= 64:
        return SCENES_CLIP if clip else SCENES_VIT
    return for_epochs(REALTUNE_CLIP, 50, count) if clip else for_epochs(REALTUNE_VIT, 30, count)
