"""What an adapted model is worth on a target task: P2's two accuracies, computed at most once."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from datasets import Dataset
from torch import Tensor

from synreal.data.fingerprint import image_set_hash
from synreal.data.tasks import Task
from synreal.errors import InputError
from synreal.evaluate.predictions import Predictions
from synreal.models.classifier import LinearClassifier, class_columns
from synreal.models.load import load_classifier
from synreal.models.tower import ImageTower
from synreal.paths import cache_dir
from synreal.train.adapt import SCENES, Adaptation, adapt, linear_probe

READINGS = ("zero-shot", "probe")


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
    predictions: dict[str, Predictions]  # by reading


def adapt_and_predict(
    checkpoint: str | Path,
    images: Dataset,
    tasks: Sequence[Task],
    source: str,
    adaptation: Adaptation = SCENES,
    seed: int = 0,
    adapted: bool = True,
) -> list[Adapted]:
    """The checkpoint adapted to `images`, on each task; without `adapted` as it is, and budget 0.

    The tasks have the classes of the images. Predictions are kept in the cache under the hashes of
    checkpoint, images, settings and task, so that nothing is trained twice.
    """
    tuning = adaptation.tuning_of(len(images), seed)
    if not adapted:
        tuning = replace(tuning, steps=0)
    key = _key(checkpoint, images, tuning)
    missing = [task for task in tasks if not all(path.exists() for path in _paths(key, task, adaptation))]
    if missing:
        classifier = adapt(checkpoint, images, tuning)
        for task in missing:
            found = predict_task(classifier, task, adaptation, seed)
            for path, reading in zip(_paths(key, task, adaptation), READINGS, strict=True):
                found[reading].save(path)
    budget = len(images) if adapted else 0
    return [
        Adapted(task.name, source, budget, seed, _read(key, task, adaptation, f"{source} {budget}"))
        for task in tasks
    ]


def features_of(classifier: LinearClassifier, images: Dataset, batch_size: int = 256) -> Tensor:
    """What the classifier's head sees of each image: float32 [N, D]."""
    batches = images.select_columns(["image"]).iter(batch_size=batch_size)
    return torch.cat([classifier.features(batch["image"]) for batch in batches])


def labels_of(images: Dataset) -> Tensor:
    """int64 [N]."""
    return torch.from_numpy(np.array(images.with_format("numpy")["label"][:], dtype=np.int64))


@torch.no_grad()
def head_logits(classifier: LinearClassifier, features: Tensor) -> Tensor:
    """The scores of the classifier's own head, float32 [N, C], of features already computed."""
    module = classifier.module
    head = module.head if isinstance(module, ImageTower) else module.get_classifier()  # type: ignore[operator]
    return head(features)[:, class_columns(classifier.card, classifier.class_names)]


def predict_task(
    classifier: LinearClassifier, task: Task, adaptation: Adaptation = SCENES, seed: int = 0
) -> dict[str, Predictions]:
    """The classifier's predictions on the task's test images, by reading.

    Raises InputError when the task's classes are not the classifier's, in this order.
    """
    if task.class_names != classifier.class_names:
        raise InputError(
            f"task {task.name}: its classes are {task.class_names}, the classifier's {classifier.class_names}"
        )
    seen, shown = features_of(classifier, task.train), features_of(classifier, task.test)
    recipe = adaptation.probe_of(len(seen), seed)
    probe = linear_probe(seen, labels_of(task.train), len(task.class_names), recipe)
    with torch.no_grad():
        logits = {"zero-shot": head_logits(classifier, shown), "probe": probe(F.normalize(shown, dim=-1))}
    return {reading: _predictions(classifier, task, logits[reading]) for reading in READINGS}


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


def _key(checkpoint: str | Path, images: Dataset, tuning: object) -> str:
    classifier = load_classifier(checkpoint)
    parts = [classifier.model_hash, classifier.preprocess_hash, image_set_hash(images), asdict(tuning)]  # type: ignore[call-overload]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _paths(key: str, task: Task, adaptation: Adaptation) -> list[Path]:
    settings = [asdict(adaptation.probe), adaptation.probe_epochs]
    probe = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:8]
    images = f"{image_set_hash(task.train)}-{image_set_hash(task.test)}"
    return [cache_dir() / "adapted" / f"{key}-{images}-{probe}-{reading}.parquet" for reading in READINGS]


def _read(key: str, task: Task, adaptation: Adaptation, model: str) -> dict[str, Predictions]:
    paths = dict(zip(READINGS, _paths(key, task, adaptation), strict=True))
    return {
        reading: replace(Predictions.load(path), model=model, image_set=task.name)
        for reading, path in paths.items()
    }
