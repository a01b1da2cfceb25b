"""A classifier: a module, the preparation its checkpoint wants, and the classes it is asked about."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence

import timm
import torch
from torch import Tensor, nn

from synreal.errors import InputError
from synreal.models.card import Card
from synreal.models.preprocess import Images, Preprocess

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
