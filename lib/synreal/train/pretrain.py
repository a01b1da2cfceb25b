"""Pretraining of classifiers from nothing: supervised ViT (timm) and contrastive CLIP (open_clip)."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from synreal.train.augment import flip_and_shift
from synreal.train.loop import Recipe, device_of, fit

VIT = Recipe(steps=1600, batch_size=128, learning_rate=2e-3, weight_decay=0.05)
CLIP = Recipe(steps=800, batch_size=256, learning_rate=2e-3, weight_decay=0.1, betas=(0.9, 0.98))


def normalise(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """uint8 [N, H, W, 3] to the network's float [N, 3, H, W]."""
    x = images.permute(0, 3, 1, 2).float() / 255
    return (x - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


def train_classifier(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    recipe: Recipe = VIT,
    folder: Path | None = None,
) -> list[float]:
    """Train `model` in place by cross-entropy on uint8 [N, H, W, 3] images; returns the losses."""

    def loss(model: Any, rows: Tensor, generator: torch.Generator) -> Tensor:
        x = flip_and_shift(normalise(images[rows], (0.5,) * 3, (0.5,) * 3), generator)
        device = device_of(model)
        return F.cross_entropy(model(x.to(device)), labels[rows].to(device))

    return fit(model, loss, len(images), recipe, folder)


def train_clip(
    model: nn.Module,
    images: Tensor,
    tokens: Tensor,
    recipe: Recipe = CLIP,
    folder: Path | None = None,
) -> list[float]:
    """Train an open_clip model in place by the symmetric contrastive loss; `tokens`: int64 [N, length]."""

    def loss(model: Any, rows: Tensor, generator: torch.Generator) -> Tensor:
        x = flip_and_shift(normalise(images[rows], (0.5,) * 3, (0.5,) * 3), generator)
        device = device_of(model)
        image, text, scale = model(x.to(device), tokens[rows].to(device))[:3]
        logits = scale.clamp(max=100) * image @ text.T
        targets = torch.arange(len(rows), device=device)
        return (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2

    return fit(model, loss, len(images), recipe, folder)
