"""A labelled image set as a classifier is tuned on it: small images in memory, larger ones from disk."""

from dataclasses import dataclass

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from torchvision.transforms import v2

from synreal.data.imageset import class_names
from synreal.data.small import SMALL, image_batches
from synreal.data.stored import decoded, undecoded
from synreal.errors import InputError
from synreal.models.card import Card
from synreal.models.classifier import class_columns
from synreal.models.preprocess import Preprocess
from synreal.train.augment import flip_and_shift


@dataclass(frozen=True)
class Batch:
    """Images ready for augmentation or, when they are cropped already, for the network; labels int64 [N]."""

    pixels: Tensor
    labels: Tensor

    def pin_memory(self) -> "Batch":
        """As PyTorch's loader asks, for the copy to the GPU."""
        return Batch(self.pixels.pin_memory(), self.labels.pin_memory())


class TuningData:
    """Batches of an image set for the network of a card; labels are columns of the card's head.

    Images up to 64 pixels are prepared as the card says, held as uint8, and flipped and shifted on the
    network's device; larger ones are decoded by worker processes and cut by torchvision's random resized
    crop.
    Raises InputError as `check_images`.
    """

    def __init__(self, images: Dataset, card: Card) -> None:
        check_images(images, card)
        columns = torch.tensor(class_columns(card, class_names(images)))
        self.labels = columns[torch.tensor(np.asarray(images.with_format("numpy")["label"][:]))]
        self.in_memory = card.image_size <= SMALL
        self._prepare, self._rows = Preprocess.from_card(card), undecoded(images)
        self._pixels = self._all_pixels(images) if self.in_memory else None
        mode = v2.InterpolationMode(card.interpolation)
        self._crop = v2.Compose(
            [v2.RandomResizedCrop(card.image_size, interpolation=mode), v2.RandomHorizontalFlip()]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def fetch(self, rows: Tensor, generator: torch.Generator) -> Batch:
        """Decoded, cropped and flipped images, uint8 [N, 3, S, S]; for worker processes."""
        images = []
        with torch.random.fork_rng([]):  # torchvision's transforms draw from the global generator
            torch.manual_seed(generator.initial_seed())
            for row in rows.tolist():
                images.append(v2.functional.pil_to_tensor(self._crop(decoded(self._rows[row]))))
        return Batch(torch.stack(images), self.labels[rows])

    def batch(
        self, given: Tensor | Batch, generator: torch.Generator, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """The network's input, float32 [N, 3, S, S], and labels, of rows or of what `fetch` made of them."""
        if isinstance(given, Batch):
            pixels, labels = given.pixels.to(device, non_blocking=True), given.labels
            return self._normalised(pixels), labels.to(device, non_blocking=True)
        assert self._pixels is not None
        pixels = self._normalised(self._pixels[given].to(device))
        return flip_and_shift(pixels, generator), self.labels[given].to(device)

    def _normalised(self, pixels: Tensor) -> Tensor:
        mean, std = (
            torch.tensor(colour, device=pixels.device).view(3, 1, 1)
            for colour in (self._prepare.mean, self._prepare.std)
        )
        return (pixels.float() / 255 - mean) / std

    def _all_pixels(self, images: Dataset) -> Tensor:
        pixels = np.concatenate([self._prepare.pixels(batch) for batch in image_batches(images, 1000)])
        return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()


def check_images(images: Dataset, card: Card) -> None:
    """Raises InputError for classes that the card does not know, and for fewer images than classes."""
    names = class_names(images)
    class_columns(card, names)
    if len(images) < len(names):
        raise InputError(
            f"images: found {len(images)} for {len(names)} classes, expected at least one of each"
        )
