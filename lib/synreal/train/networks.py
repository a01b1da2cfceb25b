"""The networks of the study on mixed pretraining, each with its recipes: P1's own, and small ones."""

from dataclasses import asdict, dataclass, field
from typing import Any

import timm
import torch
from torch import nn

from synreal.models import small_resnet
from synreal.models.conv_stem import ConvStem
from synreal.train.recipes import PRESETS, DinoRecipe, Recipe


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
        small_resnet.NAME,
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
