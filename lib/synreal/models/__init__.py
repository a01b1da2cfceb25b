"""Checkpoint cards, strict loading, the checkpoint's own preprocessing, logits and features."""

from synreal.data.published import imagenet_class_names
from synreal.models import small  # noqa: F401  registers its model with timm
from synreal.models.card import Card, Expected, list_cards, load_card, openai_templates
from synreal.models.classifier import Classifier, Preprocess
from synreal.models.load import build_module, load_classifier, load_module, save_checkpoint

__all__ = [
    "Card",
    "Classifier",
    "Expected",
    "Preprocess",
    "build_module",
    "imagenet_class_names",
    "list_cards",
    "load_card",
    "load_classifier",
    "load_module",
    "openai_templates",
    "save_checkpoint",
]
