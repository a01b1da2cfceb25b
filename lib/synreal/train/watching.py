"""What a classifier can be watched for while it is tuned."""

import numpy as np
import open_clip
import torch
from datasets import Dataset
from torch import nn

from synreal.data.imageset import class_names
from synreal.data.stored import decoded, undecoded
from synreal.models.card import Card
from synreal.models.classifier import Classifier, LinearClassifier
from synreal.models.clip import ZeroShotClassifier
from synreal.models.preprocess import Preprocess
from synreal.train.curve import Watch

BATCH = 256


def accuracy_watch(card: Card, images: Dataset, name: str = "accuracy") -> Watch:
    """A watch of top-1 accuracy (0..1) on `images`, among their classes, for `tune_checkpoint`.

    `card`: of the checkpoint that is tuned. Raises InputError for classes that it does not know.
    """
    names, rows = class_names(images), undecoded(images)
    labels = torch.tensor(np.asarray(images.with_format("numpy")["label"][:]))

    def watch(module: nn.Module) -> dict[str, float]:
        classifier = as_classifier(module, card, names)
        hits = 0
        for start in range(0, len(rows), BATCH):
            shown = [decoded(row) for row in rows.select(range(start, min(start + BATCH, len(rows))))]
            found = classifier.logits(shown, BATCH).argmax(1)
            hits += int((found == labels[start : start + BATCH]).sum())
        return {name: hits / len(rows)}

    return watch


def as_classifier(module: nn.Module, card: Card, names: list[str]) -> Classifier:
    """The network while it is tuned, asked about some of the card's classes."""
    kind = ZeroShotClassifier if isinstance(module, open_clip.CLIP) else LinearClassifier
    return kind(card, module, names, Preprocess.from_card(card))
