"""DINO: self-supervised pretraining (P1 sec. 5)."""

import copy
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightly.loss import DINOLoss
from lightly.models.modules import DINOProjectionHead
from lightly.models.utils import deactivate_requires_grad, update_momentum
from lightly.utils.scheduler import cosine_schedule
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from synreal.errors import InputError
from synreal.train.loop import device_of, fit
from synreal.train.losses import MEAN, STD, crop, flip_and_shift, normalise, recolour
from synreal.train.recipes import DinoRecipe

NEIGHBOURS, TEMPERATURE = 20, 0.07  # of the k-NN vote, as in the original


class Dino(nn.Module):
    """Student and teacher, each a trunk and a projection head; the teacher follows the student."""

    seen: Tensor  # steps so far

    def __init__(self, trunk: nn.Module, recipe: DinoRecipe) -> None:
        super().__init__()
        self.recipe = recipe
        width = int(trunk.num_features)  # type: ignore[arg-type]
        head = partial(_head, width, recipe.prototypes)
        self.student = nn.Sequential(trunk, head())
        self.teacher = nn.Sequential(copy.deepcopy(trunk), head())  # heads cannot be copied as objects
        self.teacher.load_state_dict(self.student.state_dict())
        deactivate_requires_grad(self.teacher)
        self.objective = DINOLoss(recipe.prototypes)
        self.register_buffer("seen", torch.tensor(0))

    def forward(self, whole: list[Tensor], small: list[Tensor]) -> Tensor:
        """The loss of large crops [N, C, H, W], seen by both, and small ones, seen by the student alone."""
        self._follow()
        with torch.no_grad():
            taught = self.teacher(torch.cat(whole)).chunk(len(whole))
        learned = self.student(torch.cat(whole)).chunk(len(whole))
        learned += self.student(torch.cat(small)).chunk(len(small))
        return self.objective(list(taught), list(learned))

    @torch.no_grad()
    def _follow(self) -> None:
        momentum = cosine_schedule(int(self.seen), self.recipe.steps, *self.recipe.momentum)
        update_momentum(self.student, self.teacher, momentum)
        self.seen += 1
        for taught, learned in zip(self.teacher.buffers(), self.student.buffers(), strict=True):
            taught.copy_(learned)  # the running statistics of a ResNet, which are an average already


def _head(width: int, prototypes: int) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # lightly's weight_norm is that of earlier PyTorch
        return DINOProjectionHead(width, 4 * width, width, prototypes)


def dino(module: nn.Module, images: Tensor, recipe: DinoRecipe, folder: Path | None = None) -> list[float]:
    """Train the trunk of a timm network in place, on uint8 [N, H, W, 3] images; returns the losses.

    The network must take images of several sizes: a ResNet, or a ViT with `dynamic_img_size`. Its classifier
    is left out, and needs training afterwards. Raises InputError for a ViT of one size.
    """
    if isinstance(module, VisionTransformer) and not module.dynamic_img_size:
        raise InputError("dino: the ViT takes one image size, small crops need others; set dynamic_img_size")
    classes = int(module.num_classes)  # type: ignore[arg-type]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        module.reset_classifier(0)  # type: ignore[operator]
        pair = Dino(module, recipe)

    def loss(model: Any, rows: Tensor, generator: torch.Generator) -> Tensor:
        x = normalise(images[rows], MEAN, STD).to(device_of(model))
        return model(*multi_crop(x, recipe.local_crops, generator))

    losses = fit(pair, loss, len(images), recipe, folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        module.reset_classifier(classes)  # type: ignore[operator]
    return losses


def multi_crop(
    images: Tensor, local_crops: int, generator: torch.Generator
) -> tuple[list[Tensor], list[Tensor]]:
    """Two large crops (40 to 100 % of the area, full size), and small ones (10 to 40 %, half the size)."""
    side = images.shape[2]

    def view(area: tuple[float, float], size: int) -> Tensor:
        cut = crop(flip_and_shift(images, generator), generator, area, size)
        return recolour(cut, generator)

    whole = [view((0.4, 1.0), side) for _ in range(2)]
    return whole, [view((0.1, 0.4), side // 2) for _ in range(local_crops)]


def knn_logits(bank: Tensor, labels: Tensor, queries: Tensor, classes: int) -> Tensor:
    """Log shares of the votes of the nearest images by cosine, [N, classes], as in DINO's evaluation.

    bank: features [M, D] of labelled images; queries: features [N, D].
    """
    cosines = F.normalize(queries) @ F.normalize(bank).T
    nearest, rows = cosines.topk(min(NEIGHBOURS, len(bank)))
    votes = torch.zeros(len(queries), classes)
    votes.scatter_add_(1, labels[rows], (nearest / TEMPERATURE).exp())
    return (votes / votes.sum(1, keepdim=True) + 1e-6).log()
