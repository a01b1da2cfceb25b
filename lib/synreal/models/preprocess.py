"""From images to a model's input. The preparation belongs to the checkpoint, so it comes from its card."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as transform

from synreal.errors import InputError
from synreal.models.card import Card, Interpolation

Images = np.ndarray | Sequence[Image.Image] | Sequence[np.ndarray]


@dataclass(frozen=True)
class Preprocess:
    """Resize, crop and normalise; sizes in pixels, mean and std of RGB in the range 0 to 1.

    crop "centre": the shorter side becomes `resize`, then the central square of `image_size` is kept.
    crop "none": the whole image becomes a square of `image_size`, whatever its proportions.
    """

    image_size: int
    resize: int
    crop: str
    interpolation: Interpolation
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @classmethod
    def from_card(cls, card: Card) -> Self:
        """The card's own preparation; `dataclasses.replace` departs from it on purpose."""
        return cls(**{field.name: getattr(card, field.name) for field in fields(cls)})

    @property
    def hash(self) -> str:
        """16 hexadecimal digits, the same in every process."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]

    def __call__(self, images: Images) -> Tensor:
        """Model input, float32 [N, 3, image_size, image_size].

        `images`: uint8 RGB [N, H, W, 3], or a sequence of PIL images or uint8 arrays [H, W, 3]. Arrays that
        need no resizing skip PIL, with the same result. Raises InputError for anything else.
        """
        pixels = torch.from_numpy(np.ascontiguousarray(self.pixels(images))).permute(0, 3, 1, 2)
        mean, std = (torch.tensor(colour).view(3, 1, 1) for colour in (self.mean, self.std))
        return (pixels.float() / 255 - mean) / std

    def pixels(self, images: Images) -> np.ndarray:
        """The images resized and cropped, uint8 [N, image_size, image_size, 3]; see `__call__`."""
        if len(images) == 0:
            raise InputError("no images given, at least one expected")
        if isinstance(images, np.ndarray):
            _check_array(images, dimensions=4)
            if self._fits(*images.shape[1:3]):
                return self._crop(images)
        return np.stack([np.asarray(self._square(_as_pil(image))) for image in images])

    def _fits(self, height: int, width: int) -> bool:
        if self.crop == "none":
            return height == width == self.image_size
        return min(height, width) == self.resize

    def _crop(self, images: np.ndarray) -> np.ndarray:
        # Rounds as torchvision's centre crop does, so that both paths keep the same pixels.
        top, left = (round((side - self.image_size) / 2) for side in images.shape[1:3])
        return images[:, top : top + self.image_size, left : left + self.image_size]

    def _square(self, image: Image.Image) -> Image.Image:
        mode = InterpolationMode(self.interpolation)
        if self.crop == "none":
            return transform.resize(image, [self.image_size, self.image_size], mode)
        return transform.center_crop(transform.resize(image, [self.resize], mode), [self.image_size] * 2)


def _as_pil(image: Image.Image | np.ndarray) -> Image.Image:
    if isinstance(image, Image.Image):
        return image.convert("RGB")
    _check_array(image, dimensions=3)
    return Image.fromarray(image)


def _check_array(image: np.ndarray, dimensions: int) -> None:
    shape, dtype = getattr(image, "shape", None), getattr(image, "dtype", type(image).__name__)
    if shape is None or len(shape) != dimensions or shape[-1] != 3 or dtype != np.uint8:
        wanted = "[N, H, W, 3]" if dimensions == 4 else "[H, W, 3]"
        raise InputError(
            f"images: found {dtype} of shape {shape}, expected uint8 {wanted} in RGB, or PIL images"
        )
