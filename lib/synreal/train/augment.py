"""Augmentation of whole batches as tensors, from an explicit generator."""

import torch
from torch import Tensor
from torch.nn import functional as F


def flip_and_shift(images: Tensor, generator: torch.Generator, reach: int = 2) -> Tensor:
    """Mirror half of the images and shift each by up to `reach` pixels; [N, C, H, W] in, the same out."""
    count, _, height, width = images.shape
    mirrored = torch.rand(count, 1, 1, 1, generator=generator) < 0.5
    images = torch.where(mirrored.to(images.device), images.flip(3), images)
    padded = F.pad(images, (reach,) * 4, mode="replicate")
    y, x = torch.randint(2 * reach + 1, (2, count), generator=generator)
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # views of every shift
    return windows[torch.arange(count), :, y, x]
