"""Recipes with the papers' numbers, and the networks they train."""

import math
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import timm
import torch
from torch import nn

from synreal.errors import InputError
from synreal.models import small
from synreal.models.card import Card
from synreal.models.small import ConvStem


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


@dataclass(frozen=True)
class DinoRecipe(Recipe):
    """How to train without labels; the defaults of these three are those of DINO's authors."""

    prototypes: int = 65_536  # outputs of the projection head
    momentum: tuple[float, float] = (0.996, 1.0)  # of the slow copy, at the first and the last step
    local_crops: int = 8  # small crops of each image, beside two large ones


def for_epochs(recipe: Recipe, epochs: float, count: int) -> Recipe:
    """The recipe with the steps of so many passes over `count` images; a last, smaller batch is left out."""
    per_epoch = count // min(recipe.batch_size, count)
    return replace(recipe, steps=round(epochs * per_epoch))


def with_steps(recipe: Recipe, steps: int) -> Recipe:
    """The recipe for so many steps. Where its warm-up would last all of them, a tenth of them warms up."""
    fits = recipe.warmup_steps < steps
    return replace(recipe, steps=steps, warmup_steps=recipe.warmup_steps if fits else steps // 10)


@dataclass(frozen=True)
class Preset:
    """A recipe of a paper; with `epochs`, its steps follow from the number of images."""

    recipe: Recipe
    epochs: int | None = None

    def for_count(self, count: int) -> Recipe:
        """The recipe for `count` images."""
        return for_epochs(self.recipe, self.epochs, count) if self.epochs else self.recipe


P1_IMAGES = 40_000  # RealTune's real images: 3 % of ImageNet

# What the papers leave unsaid is chosen so: bf16, a gradient norm of 1 at most, and
# P1, RealTune (sec. 4.1): PyTorch's weight decay for AdamW, none for SGD, as in the ViT's own paper.
# P1, ResNet-18 (sec. 4.3): weight decay 1e-4, no warm-up, as ResNets are trained since theirs.
# P1, ViT-Tiny: 1,000 steps of warm-up, without which AdamW is unsteady at this rate.
PRESETS = {
    "p1-clip": Preset(Recipe(0, 128, 5e-6, weight_decay=0.01, warmup_steps=1000, precision="bf16"), 50),
    "p1-vit": Preset(Recipe(0, 256, 3e-2, "sgd", 0.0, warmup_steps=0, precision="bf16"), 30),
    "p1-resnet18-pretrain": Preset(Recipe(100_000, 128, 0.1, "sgd", 1e-4, warmup_steps=0, precision="bf16")),
    "p1-resnet18-tune": Preset(Recipe(2_000, 128, 1e-3, "sgd", 0.0, warmup_steps=0, precision="bf16")),
    "p1-vit-tiny-pretrain": Preset(Recipe(30_000, 512, 5e-4, warmup_steps=1000, precision="bf16")),
    "p1-vit-tiny-tune": Preset(Recipe(3_000, 256, 1e-5, "sgd", 0.0, warmup_steps=0, precision="bf16")),
    # P2, from its code
    "p2": Preset(
        Recipe(0, 512, 1e-5, weight_decay=0.1, betas=(0.9, 0.95), warmup_steps=500, precision="bf16"), 30
    ),
    "p2-imagenet": Preset(
        Recipe(0, 512, 1e-6, weight_decay=0.1, betas=(0.9, 0.95), warmup_steps=500, precision="bf16"), 10
    ),
    "p2-probe": Preset(Recipe(0, 256, 1e-2, weight_decay=0.1, betas=(0.9, 0.95), warmup_steps=200), 200),
    "p2-probe-imagenet": Preset(
        Recipe(0, 256, 1e-3, weight_decay=0.0, betas=(0.9, 0.95), warmup_steps=200), 40
    ),
    # Scenes, on two CPU cores: about 500 images in a few seconds; chosen on validation scenes
    "scenes-vit": Preset(Recipe(60, 32, 3e-4, warmup_steps=5, checkpoint_every=50)),
    "scenes-clip": Preset(Recipe(60, 32, 2e-4, warmup_steps=5, checkpoint_every=50)),
}

REALTUNE_CLIP = PRESETS["p1-clip"].for_count(P1_IMAGES)
REALTUNE_VIT = PRESETS["p1-vit"].for_count(P1_IMAGES)
SCENES_VIT = PRESETS["scenes-vit"].recipe
SCENES_CLIP = PRESETS["scenes-clip"].recipe


def named_recipe(name: str, count: int) -> Recipe:
    """The preset of that name, for `count` images. InputError for an unknown name.

    Few images make few steps: then as `with_steps`.
    """
    if name not in PRESETS:
        raise InputError(f"recipe: found {name!r}, expected one of {', '.join(PRESETS)}")
    recipe = PRESETS[name].for_count(count)
    return with_steps(recipe, recipe.steps)


def default_recipe(card: Card, count: int) -> Recipe:
    """The recipe for a checkpoint of which nothing else is said: P1's own, or for scenes that in small."""
    world = "scenes" if card.image_size <= 64 else "p1"
    return named_recipe(f"{world}-{'clip' if card.library == 'open_clip' else 'vit'}", count)


def changed_recipe(card: Card, count: int, name: str | None, **changes: float | None) -> Recipe:
    """The preset of that name, or else the checkpoint's default, with the changes that are not None.

    Raises InputError for an unknown name, and as `check_recipe` does.
    """
    recipe = named_recipe(name, count) if name else default_recipe(card, count)
    given: dict[str, Any] = {field: value for field, value in changes.items() if value is not None}
    changed = replace(recipe, **given)
    check_recipe(changed)
    return changed


def check_recipe(recipe: Recipe) -> None:
    """Raises InputError for a number with which nothing can be tuned."""
    rate, parts = recipe.learning_rate, recipe.micro_batch
    rules = {
        "steps": (recipe.steps >= 1, "a number above 0"),
        "batch_size": (recipe.batch_size >= 1, "a number above 0"),
        "micro_batch": (parts is None or parts >= 1, "a number above 0"),
        "learning_rate": (0 < rate < math.inf, "a number above 0 that is finite"),
        "warmup_steps": (
            0 <= recipe.warmup_steps < recipe.steps,
            f"0 or more, and less than steps ({recipe.steps})",
        ),
        "seed": (0 <= recipe.seed < 2**32, "0 to 2**32 - 1"),
    }
    for name, (fits, expected) in rules.items():
        if not fits:
            raise InputError(f"{name}: found {getattr(recipe, name)}, expected {expected}")


# The networks of the study on mixed pretraining, each with its recipes: P1's own, and small ones.


@dataclass(frozen=True)
class Network:
    """A timm architecture, and how it is trained in each part of the study."""

    name: str
    architecture: str
    pretrain: Recipe
    tune: Recipe
    dino: DinoRecipe  # without labels
    transfer: Recipe  # all weights, to another data set
    args: dict[str, Any] = field(default_factory=dict)

    def create(self, classes: int, seed: int) -> nn.Module:
        """The network with first weights that depend on the seed alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module = timm.create_model(self.architecture, num_classes=classes, **self.args)
        return module.to(memory_format=torch.channels_last)  # convolutions are faster so


class SmallStem(ConvStem):
    """The zoo's convolutional stem with a third to a half of its widths."""

    def __init__(self, img_size: int = 32, embed_dim: int = 64, **_: Any) -> None:
        super().__init__(img_size, embed_dim)
        layers: list[nn.Module] = []
        for before, width in ((3, 16), (16, 32), (32, 64)):
            layers += [nn.Conv2d(before, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.GELU()]
        self.proj = nn.Sequential(*layers, nn.Conv2d(64, embed_dim, 1))


def _small(steps: int, learning_rate: float, batch_size: int = 32) -> Recipe:
    return Recipe(steps, batch_size, learning_rate, warmup_steps=steps // 10, checkpoint_every=1000)


def _small_dino(steps: int, learning_rate: float) -> DinoRecipe:
    return DinoRecipe(
        **asdict(_small(steps, learning_rate, 64)), prototypes=256, momentum=(0.99, 0.99), local_crops=1
    )


# For 32 pixels: a ResNet of 0.1 M parameters, and a ViT of two blocks and 0.1 M behind a convolutional stem.
# Learning rates of `pretrain` and `tune` were tried on validation scenes; steps are what two cores afford.
# The ResNet's DINO was lengthened, on validation scenes with one seed, until it learned something; what it
# made ships. `transfer` and the ViT's DINO are untuned. The chapter says which test scenes were seen.
TINY = {
    "ResNet": Network(
        "ResNet",
        small.RESNET_32,
        pretrain=_small(200, 2e-2, 64),
        tune=_small(75, 7e-3, 64),
        dino=_small_dino(2500, 2e-3),
        transfer=_small(60, 5e-3),
    ),
    "ViT": Network(
        "ViT",
        "vit_tiny_patch16_224",
        pretrain=_small(160, 3e-3, 64),
        tune=_small(60, 2e-3, 64),
        dino=_small_dino(200, 1e-3),
        transfer=_small(60, 1e-3),
        args={"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 2}
        | {"embed_layer": SmallStem, "global_pool": "avg", "class_token": False},
    ),
}

# P1 App. A.2, Table 3; `recipes` says what is unsaid there. Nothing is said of DINO and transfer; DINO takes
# its authors' learning rate, prototypes, crops and slow copy, and fewer steps.
_DINO = DinoRecipe(10_000, 256, 5e-4, weight_decay=0.04, warmup_steps=1_000, precision="bf16")
PAPER = {
    "ResNet": Network(
        "ResNet",
        "resnet18",
        pretrain=PRESETS["p1-resnet18-pretrain"].recipe,
        tune=PRESETS["p1-resnet18-tune"].recipe,
        dino=_DINO,
        transfer=Recipe(2_000, 128, 1e-2, "sgd", weight_decay=0.0, warmup_steps=0, precision="bf16"),
    ),
    "ViT": Network(
        "ViT",
        "vit_tiny_patch16_224",
        pretrain=PRESETS["p1-vit-tiny-pretrain"].recipe,
        tune=PRESETS["p1-vit-tiny-tune"].recipe,
        dino=_DINO,
        transfer=Recipe(2_000, 128, 1e-4, weight_decay=0.05, warmup_steps=100, precision="bf16"),
        args={"dynamic_img_size": True},
    ),
}
