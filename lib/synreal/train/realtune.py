"""RealTune (P1 sec. 4): a trained image classifier tuned with a few labelled images.

SynTune is the same with synthetic images. The result is a checkpoint like any other.
"""

import math
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from datasets import Dataset
from torch import Tensor, nn

from synreal.data.fingerprint import image_set_hash
from synreal.data.imageset import class_names
from synreal.data.kind import kind_of
from synreal.errors import InputError
from synreal.models.card import CARD_FILE, Card, load_card
from synreal.models.classifier import Classifier
from synreal.models.clip import ZeroShotClassifier, load_tokenizer
from synreal.models.load import WEIGHTS_FILE, load_classifier, save_checkpoint
from synreal.models.tower import tower_from_zero_shot
from synreal.train.curve import CURVE_FILE, LOSS_FILE, Watch
from synreal.train.loop import Loss, device_of
from synreal.train.methods import Prefix
from synreal.train.processes import processes
from synreal.train.recipes import Recipe, check_recipe, default_recipe
from synreal.train.state import check_same_run, note_run
from synreal.train.tune import RUN_FILE, Method, Tunable, tune
from synreal.train.tuning_data import TuningData, check_images

WORK = "work"  # subfolder of an unfinished checkpoint, where its training goes on
TOKENIZER = "tokenizer"
WORSE = 1.1  # times the first loss, which is one batch's: less may be chance
CHANCE = 0.99  # times the loss of a uniform guess, around which a network that has forgotten all ends


def tune_checkpoint(
    checkpoint: str | Path,
    images: Dataset,
    out: Path,
    method: Method = "full",
    recipe: Recipe | None = None,
    watch: Watch | None = None,
    every: int | None = None,
    watched: str | None = None,
) -> Card:
    """The card of the tuned checkpoint in folder `out`.

    `checkpoint`: name, folder or card. A linear head is tuned as it is; a zero-shot CLIP becomes its image
    tower with a linear head that gives the zero-shot scores to begin with, or with method flyp stays
    zero-shot, both towers tuned. `images`: labelled with classes of the card, at least one per class.
    `recipe`: default as `default_recipe`. What `watch(module)` returns before, after and every `every` steps
    stands in `curve.csv` beside the card, the losses in `losses.csv`. `watched`: hash of the images that the
    watch looks at.
    A finished folder is not trained again and an interrupted one goes on; one made from anything else is
    refused. The card's field `training` says what was tuned on what, and warns, as this function does, where
    tuning left the checkpoint no better than guessing (`spoilt`).
    Raises InputError for classes that the checkpoint lacks, fewer images than classes, and as `check_recipe`
    and `tune` do.
    """
    card = open_card(checkpoint)
    recipe = recipe or default_recipe(card, len(images))
    check_recipe(recipe)
    check_images(images, card)
    classifier = load_classifier(card)
    inputs = {
        "checkpoint": classifier.model_hash, "images": image_set_hash(images), "method": method,
        "recipe": asdict(recipe),
    }  # fmt: skip
    if watched:  # the curve cannot be measured on other images once it is over
        inputs["validation"] = watched
    if (out / CARD_FILE).exists():
        check_same_run(out / RUN_FILE, inputs)
        return load_card(out)
    tunable = tunable_classifier(classifier, TuningData(images, classifier.card), method)
    losses = tune(replace(tunable, inputs=inputs), method, recipe, out / WORK, watch, every).losses
    if processes().is_main_process:
        for name in (CURVE_FILE, LOSS_FILE):
            (out / WORK / name).replace(out / name)
        note_run(out / RUN_FILE, inputs)
        training = _training(classifier.card, images, method, recipe)
        if warning := spoilt(losses, _guess(images, method, recipe)):
            warnings.warn(f"{out}: {warning}", stacklevel=2)
            training["warning"] = warning
        save_checkpoint(out, tunable.module, tuned_card(classifier.card, method, out, training))
        shutil.rmtree(out / WORK)
    processes().wait_for_everyone()
    return load_card(out)


def open_card(checkpoint: str | Path) -> Card:
    """The card of a checkpoint; InputError that says how to write one for weights without a card."""
    path = Path(checkpoint)
    weights = path.is_file() and path.suffix not in (".yaml", ".yml")
    if weights or (path.is_dir() and not (path / CARD_FILE).exists()):
        raise InputError(
            f"{path}: has no card. Write {CARD_FILE} beside the weights (library, architecture, preparation "
            f"of images, class names; zoo/ViT-Syn-12k/{CARD_FILE} is one), or save the module with "
            "synreal.models.save_checkpoint(folder, module, card)"
        )
    return load_card(checkpoint)


def tunable_classifier(classifier: Classifier, data: TuningData, method: Method) -> Tunable:
    """The classifier's network with the losses that tune it on these data."""
    module, loss, contrastive = classifier.module, _cross_entropy(data), None
    head: Prefix = "head"
    if not isinstance(classifier, ZeroShotClassifier):
        head = head_names(module)
    elif method != "flyp":
        module = tower_from_zero_shot(classifier)
    else:
        loss = contrastive = _contrastive(classifier, data)
    return Tunable(module, loss, len(data), head, contrastive, None if data.in_memory else data.fetch)


def head_names(module: nn.Module) -> tuple[str, ...]:
    """The prefixes of the parameters of a timm model's head, or of both heads of a distilled one."""
    found = module.get_classifier()  # type: ignore[operator]
    heads = found if isinstance(found, tuple) else (found,)
    return tuple(name for name, part in module.named_modules() if any(part is head for head in heads))


def spoilt(losses: Sequence[float], guess: float) -> str:
    """A warning where training ended worse than it began and no better than guessing; else nothing.

    The end is the mean over the last tenth of the steps. `guess`: the loss of a uniform guess.
    """
    last = losses[-max(1, len(losses) // 10) :]
    end = sum(last) / len(last)
    if end <= WORSE * losses[0] or end < CHANCE * guess:
        return ""
    return (
        f"the loss rose from {losses[0]:.2f} to {end:.2f}, where a uniform guess has {guess:.2f}: what the "
        "checkpoint knew is lost; lower learning_rate"
    )


def _guess(images: Dataset, method: Method, recipe: Recipe) -> float:
    """The loss of a uniform guess among the classes of the images, or with flyp among a batch's captions."""
    if method != "flyp":
        return math.log(len(class_names(images)))
    own = max(1, min(recipe.batch_size, len(images)) // processes().num_processes)
    return math.log(min(own, recipe.micro_batch or own))


def tuned_card(card: Card, method: Method, out: Path, training: dict[str, Any]) -> Card:
    """What the tuned checkpoint in folder `out` is; a tokenizer is copied there."""
    changes: dict[str, Any] = {
        "name": out.name, "role": f"{card.role} tuned", "training": training, "expected": (),
        "published_at": None, "weights": WEIGHTS_FILE, "weights_env": None,
    }  # fmt: skip
    if card.head == "zero-shot" and method != "flyp":
        changes |= {"head": "linear", "templates": (), "prompt_names": {}, "tokenizer": None}
    elif card.tokenizer:
        assert card.file is not None
        shutil.copytree(card.file.parent / card.tokenizer, out / TOKENIZER, dirs_exist_ok=True)
        changes |= {"tokenizer": TOKENIZER}
    return card.model_copy(update=changes)


def _cross_entropy(data: TuningData) -> Loss:
    def loss(module: nn.Module, given: Any, generator: torch.Generator) -> Tensor:
        pixels, labels = data.batch(given, generator, device_of(module))
        return F.cross_entropy(module(pixels), labels)

    return loss


def _contrastive(classifier: ZeroShotClassifier, data: TuningData) -> Loss:
    """The loss of CLIP's pretraining, on captions that a template makes of the class name (FLYP)."""
    card = classifier.card
    tokenizer = load_tokenizer(card, classifier.module)
    prompts = [card.prompt_names.get(name, name) for name in card.class_names]
    tokens = torch.stack([tokenizer([text.format(name) for text in card.templates]) for name in prompts])

    def loss(module: nn.Module, given: Any, generator: torch.Generator) -> Tensor:
        pixels, labels = data.batch(given, generator, device_of(module))
        chosen = torch.randint(tokens.shape[1], (len(labels),), generator=generator)
        captions = tokens[labels.cpu(), chosen].to(pixels.device)
        image, text, scale = module(pixels, captions)[:3]
        logits = scale.clamp(max=100) * image @ text.T
        targets = torch.arange(len(labels), device=pixels.device)
        return (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2

    return loss


def _training(card: Card, images: Dataset, method: Method, recipe: Recipe) -> dict[str, Any]:
    return {
        "tuned_from": card.name,
        "source": kind_of(images),
        "images": len(images),
        "method": method,
        "steps": recipe.steps,
        "batch_size": recipe.batch_size,
        "learning_rate": recipe.learning_rate,
        "seed": recipe.seed,
        "before": card.training,
    }
