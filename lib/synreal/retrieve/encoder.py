"""An open_clip checkpoint as an encoder of images and texts to unit vectors."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from PIL import Image

from synreal.errors import InputError
from synreal.models.card import Card, load_card
from synreal.models.clip import ZeroShotClassifier, load_tokenizer, zero_shot_head
from synreal.models.load import load_classifier


class Encoder:
    """Both towers of a checkpoint; called on images, it is a `Descriptor` of data.overlap."""

    def __init__(self, card: Card | str | Path, device: str = "cpu", batch_size: int = 256) -> None:
        """`card`: of an open_clip checkpoint; InputError for one without a text tower."""
        card = card if isinstance(card, Card) else load_card(card)
        # One class only, so that no head of a thousand classes is embedded in vain.
        classifier = load_classifier(card, card.class_names[:1], device)
        if not isinstance(classifier, ZeroShotClassifier):
            raise InputError(
                f"{classifier.card.where}: a {classifier.card.library} model has no text tower; "
                "retrieval needs an open_clip checkpoint"
            )
        self.name, self.templates = classifier.card.name, classifier.card.templates
        self._classifier, self._batch_size = classifier, batch_size
        self._module = cast(open_clip.CLIP, classifier.module)
        self._tokenize = load_tokenizer(classifier.card, classifier.module)
        parts = f"{classifier.model_hash} {classifier.preprocess_hash}"
        self.fingerprint = hashlib.sha256(parts.encode()).hexdigest()[:16]

    @property
    def size(self) -> int:
        """Dimensions of a vector."""
        return self._classifier.text_head.shape[1]

    def __call__(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Unit vectors of RGB images, float32 [N, D]."""
        return F.normalize(self._classifier.features(images, self._batch_size), dim=-1).numpy()

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors of texts, float32 [N, D]; a long text is cut at the tower's context length."""
        starts = range(0, len(texts), self._batch_size)
        return np.concatenate([self._text_batch(texts[s : s + self._batch_size]) for s in starts])

    def classes(self, names: Sequence[str], templates: Sequence[str] | None = None) -> np.ndarray:
        """One unit vector per class, float32 [C, D]: the mean over the templates, as in zero-shot heads."""
        chosen = self.templates if templates is None else templates
        return zero_shot_head(self._module, self._tokenize, names, chosen).cpu().numpy()

    @torch.inference_mode()
    def _text_batch(self, texts: Sequence[str]) -> np.ndarray:
        tokens = self._tokenize(list(texts)).to(self._classifier.device)
        return F.normalize(self._module.encode_text(tokens).float(), dim=-1).cpu().numpy()
