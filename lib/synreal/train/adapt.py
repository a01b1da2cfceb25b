"""Adaptation of a pretrained classifier to a task, as P2 measures it."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, concatenate_datasets
from torch import Tensor, nn
from torch.nn import functional as F

from synreal.cache import compute
from synreal.data.decode import image_batches, image_set_hash
from synreal.data.imageset import class_names
from synreal.data.tasks import Task
from synreal.errors import InputError
from synreal.models.card import Card, refuse_choice_on, refuse_learned
from synreal.models.classifier import LinearClassifier, class_columns
from synreal.models.clip import ImageTower
from synreal.models.load import load_classifier, weights_file
from synreal.models.predictions import Predictions
from synreal.paths import cache_dir
from synreal.train.finetune import tune
from synreal.train.loop import device_of, fit
from synreal.train.recipes import PRESETS, Preset, Recipe
from synreal.train.tuning import TuningData, open_card, tunable_classifier, tuned_card

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


def targeted(images: Dataset, budget: int, seed: int = 0, what: str = "images") -> Dataset:
    """`budget` images, as many of each class as there are, chosen by the seed.

    A larger budget holds the images of a smaller one. Raises InputError, in which `what` names the images,
    when the set has fewer.
    """
    if not 0 < budget <= len(images):
        raise InputError(f"budget: found {budget}, expected 1 to the {len(images)} {what} that there are")
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


# What an adapted model is worth on a target task: P2's two accuracies, computed at most once.


PROTOCOLS = ("zero-shot", "probe")


@dataclass(frozen=True)
class Adapted:
    """A model after adaptation, on one task's test images.

    zero-shot: by the tuned head, which started as class texts and has seen none of the task's own images.
    probe: by a linear classifier of the adapted features, trained on the task's own training images.
    """

    task: str
    source: str
    budget: int
    seed: int
    predictions: dict[str, Predictions]  # by protocol


@dataclass(frozen=True)
class AdaptationRun:
    """One adaptation, and the tasks that judge it; these have the classes of the images."""

    source: str  # what the images are, such as retrieved
    images: Dataset
    tasks: tuple[Task, ...]
    seed: int = 0
    adapted: bool = True  # without, the checkpoint stays as it is, with budget 0
    protocols: tuple[str, ...] = PROTOCOLS


def adapt_and_predict(
    checkpoint: str | Path, run: AdaptationRun, adaptation: Adaptation = SCENES, device: str = "cpu"
) -> list[Adapted]:
    """The checkpoint adapted to the images of a run, on each of its tasks.

    Predictions are kept in the cache under the hashes of checkpoint, images, settings and task, so that
    nothing is trained twice. device: where predictions are made; training finds a GPU by itself.
    Raises InputError when the checkpoint learned from the images that a task reports on, or the settings were
    chosen on them, as far as its card and `adaptation` say.
    """
    for task in run.tasks:
        refuse_known(checkpoint, task, adaptation)
    tuning = adaptation.tuning_of(len(run.images), run.seed)
    tuning = tuning if run.adapted else replace(tuning, steps=0)
    key = f"{_checkpoint_hash(checkpoint)}-{image_set_hash(run.images)}-{_hash(asdict(tuning))}"
    paths = [_paths(key, task, adaptation, run.protocols) for task in run.tasks]
    missing = [n for n, own in enumerate(paths) if not all(path.exists() for path in own.values())]
    classifier = adapt(checkpoint, run.images, tuning) if missing else None
    for n in missing:
        assert classifier is not None
        classifier.module.to(device)
        answers = predict_task(classifier, run.tasks[n], adaptation, run.seed, run.protocols)
        for protocol, predictions in answers.items():
            predictions.save(paths[n][protocol])
    budget = len(run.images) if run.adapted else 0
    return [
        Adapted(task.name, run.source, budget, run.seed, _read(own, task, f"{run.source} {budget}"))
        for task, own in zip(run.tasks, paths, strict=True)
    ]


def adapt_all(
    checkpoint: str | Path,
    runs: Sequence[AdaptationRun],
    adaptation: Adaptation = SCENES,
    workers: int = 1,
    device: str = "cpu",
) -> list[Adapted]:
    """The results of all runs, in their order, computed by `workers` processes side by side."""
    jobs = [(checkpoint, run, adaptation, device) for run in runs]
    return [adapted for results in compute(adapt_and_predict, jobs, workers) for adapted in results]


def check_budgets(name: str, budgets: Sequence[int], most: int) -> None:
    """Raise InputError unless the budgets of parameter `name` are different numbers from 1 to `most`."""
    if not budgets or len(set(budgets)) < len(budgets) or min(budgets) < 1 or max(budgets) > most:
        raise InputError(f"{name}: found {list(budgets)}, expected different numbers from 1 to {most}")


def refuse_known(checkpoint: str | Path, task: Task, adaptation: Adaptation) -> None:
    """Raise InputError when checkpoint or settings know the split that the task reports on, or none is there.

    As far as the checkpoint's card and `adaptation` say.
    """
    if task.reported:
        refuse_learned(open_card(checkpoint), task.reported)
        if adaptation.chosen_on:
            refuse_choice_on(task.reported, adaptation.chosen_on)


def features_of(classifier: LinearClassifier, images: Dataset, batch_size: int = 256) -> Tensor:
    """What the classifier's head sees of each image: float32 [N, D]."""
    return torch.cat([classifier.features(batch) for batch in image_batches(images, batch_size)])


def labels_of(images: Dataset) -> Tensor:
    """int64 [N]."""
    return torch.from_numpy(np.array(images.with_format("numpy")["label"][:], dtype=np.int64))


@torch.no_grad()
def head_logits(classifier: LinearClassifier, features: Tensor) -> Tensor:
    """The scores of the classifier's own head, float32 [N, C], of features already computed."""
    module = classifier.module
    head = module.head if isinstance(module, ImageTower) else module.get_classifier()  # type: ignore[operator]
    scores = head(features.to(classifier.device)).cpu()
    return scores[:, class_columns(classifier.card, classifier.class_names)]


def predict_task(
    classifier: LinearClassifier,
    task: Task,
    adaptation: Adaptation = SCENES,
    seed: int = 0,
    protocols: Sequence[str] = PROTOCOLS,
) -> dict[str, Predictions]:
    """The classifier's predictions on the task's test images, by protocol.

    Raises InputError when the task's classes are not the classifier's, in this order.
    """
    if task.class_names != classifier.class_names:
        raise InputError(
            f"task {task.name}: its classes are {task.class_names}, the classifier's {classifier.class_names}"
        )
    shown = features_of(classifier, task.test)
    found = {}
    for protocol in protocols:
        probed = protocol == "probe"
        logits = (
            _probed(classifier, task, shown, adaptation, seed) if probed else head_logits(classifier, shown)
        )
        found[protocol] = _predictions(classifier, task, logits)
    return found


def _probed(
    classifier: LinearClassifier, task: Task, shown: Tensor, adaptation: Adaptation, seed: int
) -> Tensor:
    """The scores of a linear probe that learned from the task's training images."""
    seen = features_of(classifier, task.train)
    recipe = adaptation.probe_of(len(seen), seed)
    probe = linear_probe(seen, labels_of(task.train), len(task.class_names), recipe)
    with torch.no_grad():
        return probe(F.normalize(shown, dim=-1))


def _predictions(classifier: LinearClassifier, task: Task, logits: Tensor) -> Predictions:
    return Predictions(
        ids=np.array(task.test["id"][:], dtype=str),
        labels=labels_of(task.test).numpy(),
        logits=logits.numpy(),
        class_names=tuple(task.class_names),
        model=classifier.card.name,
        model_hash=classifier.model_hash,
        preprocess_hash=classifier.preprocess_hash,
        image_set=task.name,
    )


def _checkpoint_hash(checkpoint: str | Path) -> str:
    """Of the weights, and of what the card says beside them."""
    card = open_card(checkpoint)
    with weights_file(card).open("rb") as stream:
        return _hash([hashlib.file_digest(stream, "sha256").hexdigest(), card.model_dump(mode="json")])


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def _paths(key: str, task: Task, adaptation: Adaptation, protocols: Sequence[str]) -> dict[str, Path]:
    probe = _hash([asdict(adaptation.probe), image_set_hash(task.train)])
    settings = {"zero-shot": "head", "probe": probe}
    folder, test = cache_dir() / "adapted" / key, image_set_hash(task.test)
    return {protocol: folder / f"{test}-{settings[protocol]}.parquet" for protocol in protocols}


def _read(paths: Mapping[str, Path], task: Task, model: str) -> dict[str, Predictions]:
    return {
        protocol: replace(Predictions.load(path), model=model, image_set=task.name)
        for protocol, path in paths.items()
    }
