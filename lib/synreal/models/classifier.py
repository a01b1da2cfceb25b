"""A module with its preprocessing: images to logits and features."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Self

import numpy as np
import timm
import torch
from PIL import Image
from torch import Tensor, nn
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


# A classifier: a module, the preparation its checkpoint wants, and the classes it is asked about.


CPU_BATCH = 64  # images: what small networks make of them stays in a core's cache, a sixth faster than 256


def weights_hash(tensors: Mapping[str, Tensor], beside: str) -> str:
    """16 hexadecimal digits of named tensors, whatever their device, and of what else shapes the answers."""
    digest = hashlib.sha256(beside.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


class Classifier(ABC):
    """What evaluation needs of a model, whatever its library and head."""

    def __init__(
        self, card: Card, module: nn.Module, class_names: Sequence[str], preprocess: Preprocess
    ) -> None:
        self.card = card
        self.module = module
        self.class_names = list(class_names)
        self.preprocess = preprocess

    @property
    def device(self) -> torch.device:
        """Where the module's weights lie."""
        return next(self.module.parameters()).device

    @property
    def model_hash(self) -> str:
        """16 hexadecimal digits of the weights as they are now and of all else that shapes answers.

        That is fields of the card, and the tokenizer in a folder that the card names.

        The same in every process and on every device; half-precision storage changes it, since it changes
        the weights.
        """
        return weights_hash(self.module.state_dict(), self._beside_weights())

    @property
    def preprocess_hash(self) -> str:
        """16 hexadecimal digits of the preparation of images."""
        return self.preprocess.hash

    def logits(self, images: Images, batch_size: int = 256) -> Tensor:
        """Scores, float32 [N, C] on the CPU, one column per entry of `class_names`."""
        return self._in_batches(self._scores, images, batch_size)

    def features(self, images: Images, batch_size: int = 256) -> Tensor:
        """What the head sees, float32 [N, D] on the CPU: pooled features, or CLIP's image embedding.

        Neither is scaled to unit length.
        """
        return self._in_batches(self._features, images, batch_size)

    def _beside_weights(self) -> str:
        return json.dumps(_shaping_fields(self.card), sort_keys=True)

    @abstractmethod
    def _scores(self, pixels: Tensor) -> Tensor: ...

    @abstractmethod
    def _features(self, pixels: Tensor) -> Tensor: ...

    def _in_batches(self, answer: Callable[[Tensor], Tensor], images: Images, batch_size: int) -> Tensor:
        if batch_size < 1:
            raise InputError(f"batch_size: found {batch_size}, expected 1 or more")
        self.module.eval()
        if self.device.type == "cpu":
            batch_size = min(batch_size, CPU_BATCH)
        starts = range(0, max(len(images), 1), batch_size)
        with torch.inference_mode():
            parts = [
                answer(self.preprocess(images[start : start + batch_size]).to(self.device)).float().cpu()
                for start in starts
            ]
        # Joined outside inference mode: the result is an ordinary tensor that a probe can train on.
        return torch.cat(parts)


class LinearClassifier(Classifier):
    """A timm model and its linear head, asked about some or all of the card's classes."""

    def __init__(
        self, card: Card, module: nn.Module, class_names: Sequence[str], preprocess: Preprocess
    ) -> None:
        super().__init__(card, module, class_names, preprocess)
        self._columns = class_columns(card, class_names)

    def _scores(self, pixels: Tensor) -> Tensor:
        return self.module(pixels)[:, self._columns]

    def _features(self, pixels: Tensor) -> Tensor:
        return self.module.forward_head(self.module.forward_features(pixels), pre_logits=True)  # type: ignore[operator]


def class_columns(card: Card, class_names: Sequence[str]) -> list[int]:
    """Columns of the card's head for these classes, in their order. InputError for classes it lacks."""
    unknown = [name for name in class_names if name not in card.class_names]
    if unknown:
        raise InputError(
            f"class_names: {card.where} has no {', '.join(map(repr, unknown[:5]))}; "
            f"its {len(card.class_names)} classes begin {', '.join(card.class_names[:5])}"
        )
    column = {name: index for index, name in enumerate(card.class_names)}
    return [column[name] for name in class_names]


def build_timm(card: Card) -> nn.Module:
    """The card's timm model, untrained, with one output per class of the card."""
    given = card.architecture_args
    for name in ("pretrained", "checkpoint_path", "pretrained_cfg", "num_classes"):
        if name in given:
            raise InputError(
                f"{card.where}: architecture_args.{name} is not allowed: weights come from the "
                "weights file, the number of classes from class_names"
            )
    if ":" in card.architecture or "/" in card.architecture:
        raise InputError(
            f"{card.where}: architecture is {card.architecture!r}, expected the name of a timm model, "
            "such as resnet18; a model of a hub is fetched beforehand, and its weights are named by the card"
        )
    try:
        module = timm.create_model(card.architecture, num_classes=len(card.class_names), **given)
    except (RuntimeError, TypeError, ValueError, AssertionError) as error:
        raise InputError(
            f"{card.where}: timm cannot build {card.architecture!r} with architecture_args {given}: {error}"
        ) from error
    _check_image_size(module, card)
    return module


def _check_image_size(module: nn.Module, card: Card) -> None:
    size = getattr(getattr(module, "patch_embed", None), "img_size", None)
    if size is not None and tuple(size) != (card.image_size, card.image_size):
        raise InputError(
            f"{card.where}: image_size is {card.image_size}, but {card.architecture} is built for "
            f"{tuple(size)}; set architecture_args.img_size to {card.image_size}"
        )


def _shaping_fields(card: Card) -> dict[str, object]:
    shaping = {
        "library",
        "architecture",
        "architecture_args",
        "activation",
        "head",
        "templates",
        "prompt_names",
        "class_names",
    }
    return card.model_dump(mode="json", include=shaping)
