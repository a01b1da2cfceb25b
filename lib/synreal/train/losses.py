"""Augmentation of images and batches, the losses of a step, and training from nothing."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from synreal.errors import InputError
from synreal.train.loop import Loss, device_of, fit
from synreal.train.recipes import Recipe


def flip_and_shift(images: Tensor, generator: torch.Generator, reach: int = 2) -> Tensor:
    """Mirror half of the images and shift each by up to `reach` pixels; [N, C, H, W] in, the same out."""
    count, _, height, width = images.shape
    mirrored = torch.rand(count, 1, 1, 1, generator=generator) < 0.5
    images = torch.where(mirrored.to(images.device), images.flip(3), images)
    padded = F.pad(images, (reach,) * 4, mode="replicate")
    y, x = torch.randint(2 * reach + 1, (2, count), generator=generator)
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # views of every shift
    return windows[torch.arange(count), :, y, x]


# Augmentations of whole batches that imitate what synthetic images lack, from an explicit generator.
#
# P1's Appendix B ("Ablation study of data augmentation") names brightness, blocking and cropping and none of
# their strengths; the strengths here are stated beside each. Images are float [N, C, H, W] in -1..1.


def brightness(
    images: Tensor, generator: torch.Generator, factors: tuple[float, float] = (0.4, 1.6)
) -> Tensor:
    """Each image's light multiplied by a factor of its own."""
    low, high = factors
    factor = low + (high - low) * torch.rand(len(images), 1, 1, 1, generator=generator)
    return ((images + 1) * factor.to(images.device) - 1).clamp(-1, 1)


def recolour(images: Tensor, generator: torch.Generator, gains: tuple[float, float] = (0.5, 1.5)) -> Tensor:
    """Each image's channels multiplied by gains of their own, after a random share of its colour is taken."""
    drawn = torch.rand(4, len(images), 1, 1, generator=generator).to(images.device)
    light = (images + 1) * (gains[0] + (gains[1] - gains[0]) * drawn[:3].transpose(0, 1))
    return (torch.lerp(light.mean(1, keepdim=True), light, drawn[3][:, None]) - 1).clamp(-1, 1)


def blocking(images: Tensor, generator: torch.Generator, side: float = 0.4, chance: float = 0.5) -> Tensor:
    """With `chance`, a grey square of `side` (share of the image's) covers a place of its own in an image."""
    height, width = images.shape[2:]
    drawn = torch.rand(3, len(images), 1, 1, generator=generator)
    y, x = torch.arange(height)[None, :, None] / height, torch.arange(width)[None, None, :] / width
    top, left = drawn[0] * (1 - side), drawn[1] * (1 - side)
    covered = (y >= top) & (y < top + side) & (x >= left) & (x < left + side) & (drawn[2] < chance)
    return torch.where(covered[:, None].to(images.device), torch.zeros((), device=images.device), images)


def crop(
    images: Tensor,
    generator: torch.Generator,
    area: tuple[float, float] = (0.4, 1.0),
    size: int | None = None,
) -> Tensor:
    """A square of its own from each image, of a share of its area within `area`, resized to `size` pixels."""
    count, channels, height, _ = images.shape
    drawn = torch.rand(3, count, generator=generator)
    side = (area[0] + (area[1] - area[0]) * drawn[0]).sqrt()
    shift = (2 * drawn[1:] - 1) * (1 - side)  # grid coordinates run from -1 to 1
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = side, side, shift.T
    out = [count, channels, size or height, size or height]
    grid = F.affine_grid(theta, out, align_corners=False).to(images.device)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


AUGMENTATIONS: dict[str, Callable[..., Tensor]] = {
    "brightness": brightness, "blocking": blocking, "crop": crop
}  # fmt: skip


def augmented(images: Tensor, names: Sequence[str], generator: torch.Generator) -> Tensor:
    """The batch after the named augmentations, in their order."""
    for name in names:
        images = AUGMENTATIONS[name](images, generator)
    return images


def check_augmentations(names: Sequence[str]) -> None:
    """Raises InputError for a name that is none of AUGMENTATIONS."""
    if unknown := [name for name in names if name not in AUGMENTATIONS]:
        raise InputError(f"augment: found {unknown}, expected names of {', '.join(AUGMENTATIONS)}")


# Losses of a step on uint8 images: of classifiers on one kind of data or on two, and of CLIP.


MEAN = STD = (0.5, 0.5, 0.5)  # of images for the networks trained here, which take pixels of -1..1


def normalise(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """uint8 [N, H, W, 3] to the network's float [N, 3, H, W]."""
    x = images.permute(0, 3, 1, 2).float() / 255
    return (x - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


def label_loss(images: Tensor, labels: Tensor, augment: Sequence[str] = ()) -> Loss:
    """Cross-entropy on uint8 [N, H, W, 3] images and their labels [N]; on a mixture, P1's MixData."""

    def loss(model: Any, rows: Tensor, generator: torch.Generator) -> Tensor:
        x = flip_and_shift(normalise(images[rows], MEAN, STD), generator)
        x, device = augmented(x, augment, generator), device_of(model)
        return F.cross_entropy(model(x.to(device)), labels[rows].to(device))

    return loss


def mix_loss(
    real: tuple[Tensor, Tensor], synthetic: tuple[Tensor, Tensor], augment: Sequence[str] = ()
) -> Loss:
    """The mean loss of half a batch of each kind, added up (MixLoss, He et al. 2023, P1 Table 6).

    real, synthetic: images and labels, as `label_loss`. The rows of a step are synthetic images; as many real
    ones are drawn beside them, so that both weigh the same however many there are.
    """
    of_real, of_synthetic = label_loss(*real, augment), label_loss(*synthetic, augment)
    count = len(real[1])

    def loss(model: Any, rows: Tensor, generator: torch.Generator) -> Tensor:
        beside = torch.randint(count, (len(rows),), generator=generator)
        return of_real(model, beside, generator) + of_synthetic(model, rows, generator)

    return loss


# Pretraining of classifiers from nothing: supervised ViT (timm) and contrastive CLIP (open_clip).


VIT = Recipe(steps=1600, batch_size=128, learning_rate=2e-3, weight_decay=0.05)
CLIP = Recipe(steps=800, batch_size=256, learning_rate=2e-3, weight_decay=0.1, betas=(0.9, 0.98))


def train_classifier(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    recipe: Recipe = VIT,
    folder: Path | None = None,
) -> list[float]:
    """Train `model` in place by cross-entropy on uint8 [N, H, W, 3] images; returns the losses."""
    return fit(model, label_loss(images, labels), len(images), recipe, folder)


def train_clip(
    model: nn.Module,
    images: Tensor,
    tokens: Tensor,
    recipe: Recipe = CLIP,
    folder: Path | None = None,
) -> list[float]:
    """Train an open_clip model in place by the symmetric contrastive loss; `tokens`: int64 [N, length]."""

    def loss(model: Any, rows: Tensor, generator: torch.Generator) -> Tensor:
        x = flip_and_shift(normalise(images[rows], MEAN, STD), generator)
        device = device_of(model)
        image, text, scale = model(x.to(device), tokens[rows].to(device))[:3]
        logits = scale.clamp(max=100) * image @ text.T
        targets = torch.arange(len(rows), device=device)
        return (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2

    return fit(model, loss, len(images), recipe, folder)
