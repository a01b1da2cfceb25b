"""Adapting a pretrained classifier to a target task, as P2 does: tuned end to end, then probed.

P2's settings are those of its code (P2 itself prints none); the scenes' were chosen on validation scenes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, concatenate_datasets
from torch import Tensor, nn
from torch.nn import functional as F

from synreal.data.imageset import class_names
from synreal.errors import InputError
from synreal.models.card import Card
from synreal.models.classifier import LinearClassifier
from synreal.models.load import load_classifier
from synreal.train.loop import device_of, fit
from synreal.train.realtune import open_card, tunable_classifier, tuned_card
from synreal.train.recipes import PRESETS, Preset, Recipe
from synreal.train.tune import tune
from synreal.train.tuning_data import TuningData

CONTRACT = ["image", "label", "id", "source"]


@dataclass(frozen=True)
class Adaptation:
    """How a model is tuned, and how its features are probed; both by epochs."""

    tuning: Preset
    probe: Preset
    least_steps: int = 1  # few images are seen more often
    most_steps: int | None = None  # many images are not all seen
    chosen_on: str = ""  # split on which these settings were chosen; empty for those of a paper

    def tuning_of(self, count: int, seed: int) -> Recipe:
        """The recipe for `count` images."""
        recipe = self.tuning.for_count(count)
        steps = max(self.least_steps, min(recipe.steps, self.most_steps or recipe.steps))
        return replace(recipe, steps=steps, seed=seed)

    def at_length(self) -> "Adaptation":
        """The same with as many steps for few images as for many."""
        return replace(self, least_steps=self.most_steps or self.least_steps)

    def probe_of(self, count: int, seed: int) -> Recipe:
        """The probe's recipe for `count` feature vectors."""
        return replace(self.probe.for_count(count), seed=seed)


P2 = Adaptation(PRESETS["p2"], PRESETS["p2-probe"])
P2_IMAGENET = Adaptation(PRESETS["p2-imagenet"], PRESETS["p2-probe-imagenet"])
SCENES = Adaptation(
    Preset(Recipe(0, 32, 1e-4, weight_decay=0.1, betas=(0.9, 0.95), warmup_steps=5), 1),
    Preset(Recipe(0, 256, 1e-2, weight_decay=0.1, betas=(0.9, 0.95), warmup_steps=5), 60),
    least_steps=12, most_steps=30, chosen_on="scenes/val",
)  # fmt: skip
ADAPTATIONS = {"P2": P2, "P2 ImageNet": P2_IMAGENET, "scenes": SCENES}


def adaptation_named(name: str) -> Adaptation:
    """One of ADAPTATIONS. InputError that lists them for another name."""
    if name not in ADAPTATIONS:
        raise InputError(f"recipe: found {name!r}, expected one of {', '.join(ADAPTATIONS)}")
    return ADAPTATIONS[name]


def adapt(
    checkpoint: str | Path, images: Dataset, recipe: Recipe, folder: Path | None = None
) -> LinearClassifier:
    """The checkpoint tuned end to end on `images` by cross-entropy, asked about their classes.

    checkpoint: name, folder or card. A zero-shot CLIP takes any classes: it becomes its image tower, with a
    head that starts as the texts of these classes and is tuned with it. A linear head must know them. Zero
    steps leave the checkpoint as it is, in the same form.
    folder: where an interrupted run goes on.
    Raises InputError for classes that the checkpoint lacks, fewer images than classes, and as `tune` does.
    """
    card = _card_of(checkpoint, class_names(images))
    classifier = load_classifier(card)
    tunable = tunable_classifier(classifier, TuningData(images, card), "full")
    freeze_batch_norm(tunable.module)
    if recipe.steps:
        tune(tunable, "full", recipe, folder)
    training = {
        "tuned_from": card.name,
        "images": len(images),
        "steps": recipe.steps,
        "before": card.training,
    }
    tuned = tuned_card(card, "full", Path(f"{card.name}-adapted"), training)
    names = classifier.class_names
    return LinearClassifier(tuned, tunable.module.eval(), names, classifier.preprocess)


def freeze_batch_norm(module: nn.Module) -> None:
    """Leave batch normalisation out of training, statistics included.

    P2 adapts a ViT, which has none. Where a network has it, its statistics would take on those of the
    adaptation images within a few steps, whatever the learning rate, and that would be all one measures.
    """
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.requires_grad_(False)


def _card_of(checkpoint: str | Path, names: Sequence[str]) -> Card:
    card = open_card(checkpoint)
    if card.head == "linear":
        return card
    prompts = {name: text for name, text in card.prompt_names.items() if name in names}
    return card.model_copy(update={"class_names": tuple(names), "prompt_names": prompts})


def targeted(images: Dataset, budget: int, seed: int = 0) -> Dataset:
    """`budget` images, as many of each class as there are, chosen by the seed.

    A larger budget holds the images of a smaller one. Raises InputError when the set has fewer images.
    """
    if not 0 < budget <= len(images):
        raise InputError(f"budget: found {budget}, expected 1 to the {len(images)} images that there are")
    labels = np.asarray(images.with_format("numpy")["label"][:])
    order = np.random.default_rng(seed).permutation(len(labels))
    turn = np.empty(len(labels), np.int64)  # an image's turn within its class
    for label in np.unique(labels):
        own = order[labels[order] == label]
        turn[own] = np.arange(len(own))
    by_turn = order[np.argsort(turn[order], kind="stable")]
    return images.select(by_turn[:budget])


def mixture(sets: Sequence[Dataset], budget: int, seed: int = 0) -> Dataset:
    """`budget` images, an equal share of each set, with the contract's columns alone.

    Raises InputError when the sets have other classes, or too few images.
    """
    names = class_names(sets[0])
    if any(class_names(other) != names for other in sets):
        raise InputError("mixture: the sets have other classes, or in another order")
    shares = [budget * (n + 1) // len(sets) - budget * n // len(sets) for n in range(len(sets))]
    parts = [
        targeted(part, share, seed).select_columns(CONTRACT) for part, share in zip(sets, shares, strict=True)
    ]
    return concatenate_datasets(parts)


def linear_probe(features: Tensor, labels: Tensor, classes: int, recipe: Recipe) -> nn.Linear:
    """A linear classifier of features scaled to unit length: float32 [N, D] and int64 [N].

    It starts from zero: the problem is convex, so that only the path would differ.
    """
    unit, probe = F.normalize(features, dim=-1), nn.Linear(features.shape[1], classes)
    nn.init.zeros_(probe.weight)
    nn.init.zeros_(probe.bias)

    def loss(model: nn.Module, rows: Tensor, generator: torch.Generator) -> Tensor:
        device = device_of(model)
        return F.cross_entropy(model(unit[rows].to(device)), labels[rows].to(device))

    fit(probe, loss, len(unit), recipe, title="probe")
    return probe
