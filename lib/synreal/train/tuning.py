"""RealTune and SynTune of checkpoints, with what each predicts (P1 sec. 4)."""

import hashlib
import json
import math
import shutil
import warnings
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from datasets import Dataset
from torch import Tensor, nn
from torchvision.transforms import v2

from synreal.cache import compute
from synreal.data.decode import SMALL, decoded, image_batches, image_set_hash, undecoded
from synreal.data.imageset import class_names, kind_of
from synreal.data.worlds import World
from synreal.errors import InputError
from synreal.models.card import CARD_FILE, Card, load_card
from synreal.models.classifier import Classifier, Preprocess, class_columns
from synreal.models.clip import ZeroShotClassifier, load_tokenizer, tower_from_zero_shot
from synreal.models.load import WEIGHTS_FILE, load_classifier, save_checkpoint
from synreal.models.predictions import Predictions, examine
from synreal.paths import cache_dir
from synreal.train.finetune import RUN_FILE, Method, Prefix, Tunable, interpolate, tune
from synreal.train.loop import Loss, device_of
from synreal.train.losses import flip_and_shift
from synreal.train.recipes import Recipe, check_recipe, default_recipe
from synreal.train.state import CURVE_FILE, LOSS_FILE, Watch, check_same_run, note_run, processes


@dataclass(frozen=True)
class Batch:
    """Images ready for augmentation or, when they are cropped already, for the network; labels int64 [N]."""

    pixels: Tensor
    labels: Tensor

    def pin_memory(self) -> "Batch":
        """As PyTorch's loader asks, for the copy to the GPU."""
        return Batch(self.pixels.pin_memory(), self.labels.pin_memory())


class TuningData:
    """Batches of an image set for the network of a card; labels are columns of the card's head.

    Images up to 64 pixels are prepared as the card says, held as uint8, and flipped and shifted on the
    network's device; larger ones are decoded by worker processes and cut by torchvision's random resized
    crop.
    Raises InputError as `check_images`.
    """

    def __init__(self, images: Dataset, card: Card) -> None:
        check_images(images, card)
        columns = torch.tensor(class_columns(card, class_names(images)))
        self.labels = columns[torch.tensor(np.asarray(images.with_format("numpy")["label"][:]))]
        self.in_memory = card.image_size <= SMALL
        self._prepare, self._rows = Preprocess.from_card(card), undecoded(images)
        self._pixels = self._all_pixels(images) if self.in_memory else None
        mode = v2.InterpolationMode(card.interpolation)
        self._crop = v2.Compose(
            [v2.RandomResizedCrop(card.image_size, interpolation=mode), v2.RandomHorizontalFlip()]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def fetch(self, rows: Tensor, generator: torch.Generator) -> Batch:
        """Decoded, cropped and flipped images, uint8 [N, 3, S, S]; for worker processes."""
        images = []
        with torch.random.fork_rng([]):  # torchvision's transforms draw from the global generator
            torch.manual_seed(generator.initial_seed())
            for row in rows.tolist():
                images.append(v2.functional.pil_to_tensor(self._crop(decoded(self._rows[row]))))
        return Batch(torch.stack(images), self.labels[rows])

    def batch(
        self, given: Tensor | Batch, generator: torch.Generator, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """The network's input, float32 [N, 3, S, S], and labels, of rows or of what `fetch` made of them."""
        if isinstance(given, Batch):
            pixels, labels = given.pixels.to(device, non_blocking=True), given.labels
            return self._normalised(pixels), labels.to(device, non_blocking=True)
        assert self._pixels is not None
        pixels = self._normalised(self._pixels[given].to(device))
        return flip_and_shift(pixels, generator), self.labels[given].to(device)

    def _normalised(self, pixels: Tensor) -> Tensor:
        mean, std = (
            torch.tensor(colour, device=pixels.device).view(3, 1, 1)
            for colour in (self._prepare.mean, self._prepare.std)
        )
        return (pixels.float() / 255 - mean) / std

    def _all_pixels(self, images: Dataset) -> Tensor:
        pixels = np.concatenate([self._prepare.pixels(batch) for batch in image_batches(images, 1000)])
        return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()


def check_images(images: Dataset, card: Card) -> None:
    """Raises InputError for classes that the card does not know, and for fewer images than classes."""
    names = class_names(images)
    class_columns(card, names)
    if len(images) < len(names):
        raise InputError(
            f"images: found {len(images)} for {len(names)} classes, expected at least one of each"
        )


def rarest(images: Dataset, values: pd.Series, budget: int, seed: int = 0) -> Dataset:
    """`budget` images with high values of a measure, as many of each class as there are.

    values: the measure by image id, NaN where it is undefined; turn its sign where low values are rare. The
    rare end of a class is its most extreme images, twice as many as are wanted, of which the seed draws half;
    of a measure that answers yes or no it is every yes. P1 (sec. 4.2) does not say where it cuts.
    Raises InputError when a class has fewer rare images than wanted.
    """
    labels = np.asarray(images.with_format("numpy")["label"][:])
    found, names = values.reindex(images["id"][:]).to_numpy(), class_names(images)
    wanted = np.diff(np.arange(len(names) + 1) * budget // len(names))
    rng, rows = np.random.default_rng(seed), []
    for label, count in enumerate(wanted):
        ends = _rare_end(found, np.flatnonzero(labels == label), 2 * count)
        if len(ends) < count:
            raise InputError(
                f"rare images: class {names[label]} has {len(ends)} at the rare end of {values.name}, "
                f"expected {count}; choose them from a larger set, or ask for fewer"
            )
        rows.append(rng.permutation(ends)[:count])
    return images.select(np.sort(np.concatenate(rows)))


def _rare_end(values: np.ndarray, rows: np.ndarray, most: int) -> np.ndarray:
    """The rows with the highest values, at most so many; of yes and no, every yes."""
    known = rows[np.isfinite(values[rows])]
    if set(np.unique(np.abs(values[known]))) <= {0.0, 1.0}:
        return known[values[known] == 1]
    return known[np.argsort(-values[known], kind="stable")[:most]]


# RealTune (P1 sec. 4): a trained image classifier tuned with a few labelled images.
#
# SynTune is the same with synthetic images. The result is a checkpoint like any other.


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
    tuning left the checkpoint no better than guessing (`collapsed`).
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
        if warning := collapsed(losses, _guess(images, method, recipe)):
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


def collapsed(losses: Sequence[float], guess: float) -> str:
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


# Tuned checkpoints and their answers, each computed at most once: what studies of RealTune are made of.


Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Tuning:
    """One tuning: of which checkpoint, on which images, and how. The seed is the recipe's."""

    checkpoint: str
    images: Dataset
    recipe: Recipe
    method: Method = "full"
    alpha: float = 1.0  # how far to go from the weights before (0) to those after (1), once that is done

    @property
    def folder(self) -> Path:
        """Where the tuned checkpoint is kept: in the cache, under the hash of all it depends on."""
        weights = load_classifier(self.checkpoint).model_hash
        parts = [weights, image_set_hash(self.images), asdict(self.recipe), self.method]
        key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
        return cache_dir() / "tuned" / key


def tune_and_examine(tuning: Tuning, worlds: Sequence[World], device: str = "cpu") -> list[Predictions]:
    """The answers of the tuned checkpoint on each world; raises as `tune_checkpoint` and `interpolated`."""
    folder = tuning.folder
    if tuning.alpha == 1:
        tune_checkpoint(tuning.checkpoint, tuning.images, folder, tuning.method, tuning.recipe)
    else:
        folder = interpolated(tuning.checkpoint, folder, tuning.alpha)
    return [examine(str(folder), world, device=device) for world in worlds]


def tune_all(
    tunings: Mapping[Key, Sequence[Tuning]], worlds: Sequence[World], workers: int = 1, device: str = "cpu"
) -> list[dict[Key, list[Predictions]]]:
    """For each world, the answers by key, one per tuning in the order given; `workers` tunings at once."""
    jobs = [(tuning, worlds, device) for repeats in tunings.values() for tuning in repeats]
    done = iter(compute(tune_and_examine, jobs, workers))
    answers = {key: [next(done) for _ in repeats] for key, repeats in tunings.items()}
    return [
        {key: [found[place] for found in repeats] for key, repeats in answers.items()}
        for place in range(len(worlds))
    ]


def interpolated(checkpoint: str, tuned: Path, alpha: float) -> Path:
    """The checkpoint `alpha` of the way from before a tuning to after it (WiSE-FT, Wortsman et al. 2022).

    A zero-shot CLIP that tuning made an image tower with a linear head begins as such a tower. Raises
    InputError where the tuning is not finished.
    """
    out = tuned / f"alpha-{alpha:g}"
    if not (tuned / CARD_FILE).exists():
        raise InputError(f"alpha {alpha:g}: {tuned} is not tuned yet; tune it first, with alpha 1")
    if not (out / CARD_FILE).exists():
        before, after = load_classifier(checkpoint), load_classifier(str(tuned))
        start = before.module
        if isinstance(before, ZeroShotClassifier) and after.card.head == "linear":
            start = tower_from_zero_shot(before)
        weights = interpolate(start.state_dict(), after.module.state_dict(), alpha)
        after.module.load_state_dict(weights)
        save_checkpoint(out, after.module, after.card)
    return out
