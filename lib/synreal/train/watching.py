"""What a classifier can be watched for while it is tuned."""

import numpy as np
import open_clip
import torch
from datasets import Dataset
from torch import nn

from synreal.data.imageset import class_names
from synreal.data.stored import decoded, stored_batches
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
    names = class_names(images)
    labels = torch.tensor(np.asarray(images.with_format("numpy")["label"][:]))

    def watch(module: nn.Module) -> dict[str, float]:
        classifier = as_classifier(module, card, names)
        batches = ([decoded(row) for row in rows] for rows in stored_batches(images, BATCH))
        found = torch.cat([classifier.logits(batch, BATCH).argmax(1) for batch in batches])
        return {name: float((found == labels).float().mean())}

    return watch


def as_classifier(module: nn.Module, card: Card, names: list[str]) -> Classifier:
    """The network while it is tuned, asked about some of the card's classes."""
    kind = ZeroShotClassifier if isinstance(module, open_clip.CLIP) else LinearClassifier
    return kind(card, module, names, Preprocess.from_card(card))
