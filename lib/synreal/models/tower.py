"""The image tower of a CLIP with a linear head: what CLIP becomes when it is tuned as a classifier."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from synreal.models.card import Card
from synreal.models.clip import ZeroShotClassifier, build_clip, clip_config


class ImageTower(nn.Module):
    """Scores are a linear map of the unit image embedding; the methods are those of timm's models."""

    def __init__(self, visual: nn.Module, width: int, classes: int) -> None:
        super().__init__()
        self.visual = visual
        self.head = nn.Linear(width, classes)

    def forward_features(self, pixels: Tensor) -> Tensor:
        """Unit embeddings [N, D]."""
        return F.normalize(self.visual(pixels), dim=-1)

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Scores [N, C]; the features themselves with `pre_logits`."""
        return features if pre_logits else self.head(features)

    def get_classifier(self) -> nn.Linear:
        """The head, by the name that timm gives the method."""
        return self.head

    def forward(self, pixels: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(pixels))


def build_tower(card: Card) -> ImageTower:
    """The image tower of the card's open_clip model, untrained, with one output per class of the card."""
    visual: Any = build_clip(card).visual
    return ImageTower(visual, clip_config(card)["embed_dim"], len(card.class_names))


def tower_from_zero_shot(classifier: ZeroShotClassifier) -> ImageTower:
    """The classifier's image tower, with a head that gives its zero-shot scores: its class texts, times the
    scale, and no bias. The weights of the tower are shared with the classifier."""
    texts = classifier.text_head.detach()
    tower = ImageTower(classifier.module.visual, texts.shape[1], len(texts))
    tower.head.weight.data = classifier.module.logit_scale.detach().exp() * texts
    nn.init.zeros_(tower.head.bias)
    return tower.to(texts.device).eval()
