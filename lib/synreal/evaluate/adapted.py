"""What an adapted model is worth on a target task: P2's two accuracies, computed at most once."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from datasets import Dataset
from torch import Tensor

from synreal.data.fingerprint import image_set_hash
from synreal.data.small import image_batches
from synreal.data.tasks import Task
from synreal.errors import InputError
from synreal.evaluate.guard import refuse_choice_on, refuse_learned
from synreal.evaluate.predictions import Predictions
from synreal.models.classifier import LinearClassifier, class_columns
from synreal.models.load import weights_file
from synreal.models.tower import ImageTower
from synreal.paths import cache_dir
from synreal.train.adapt import SCENES, Adaptation, adapt, linear_probe
from synreal.train.realtune import open_card

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
    readings: Sequence[str] = READINGS,
    device: str = "cpu",
) -> list[Adapted]:
    """The checkpoint adapted to `images`, on each task; without `adapted` as it is, and budget 0.

    The tasks have the classes of the images. Predictions are kept in the cache under the hashes of
    checkpoint, images, settings and task, so that nothing is trained twice. device: where predictions are
    made; training finds a GPU by itself.
    Raises InputError when the checkpoint learned from the images that a task reports on, or the settings were
    chosen on them, as far as its card and `adaptation` say.
    """
    for task in tasks:
        refuse_known(checkpoint, task, adaptation)
    tuning = adaptation.tuning_of(len(images), seed)
    tuning = tuning if adapted else replace(tuning, steps=0)
    key = f"{_checkpoint_hash(checkpoint)}-{image_set_hash(images)}-{_hash(asdict(tuning))}"
    paths = [_paths(key, task, adaptation, readings) for task in tasks]
    missing = [n for n, own in enumerate(paths) if not all(path.exists() for path in own.values())]
    classifier = adapt(checkpoint, images, tuning) if missing else None
    for n in missing:
        assert classifier is not None
        classifier.module.to(device)
        for reading, found in predict_task(classifier, tasks[n], adaptation, seed, readings).items():
            found.save(paths[n][reading])
    budget = len(images) if adapted else 0
    return [
        Adapted(task.name, source, budget, seed, _read(own, task, f"{source} {budget}"))
        for task, own in zip(tasks, paths, strict=True)
    ]


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
    readings: Sequence[str] = READINGS,
) -> dict[str, Predictions]:
    """The classifier's predictions on the task's test images, by reading.

    Raises InputError when the task's classes are not the classifier's, in this order.
    """
    if task.class_names != classifier.class_names:
        raise InputError(
            f"task {task.name}: its classes are {task.class_names}, the classifier's {classifier.class_names}"
        )
    shown = features_of(classifier, task.test)
    found = {}
    for reading in readings:
        probed = reading == "probe"
        logits = (
            _probed(classifier, task, shown, adaptation, seed) if probed else head_logits(classifier, shown)
        )
        found[reading] = _predictions(classifier, task, logits)
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


def _paths(key: str, task: Task, adaptation: Adaptation, readings: Sequence[str]) -> dict[str, Path]:
    probe = _hash([asdict(adaptation.probe), image_set_hash(task.train)])
    settings = {"zero-shot": "head", "probe": probe}
    folder, test = cache_dir() / "adapted" / key, image_set_hash(task.test)
    return {reading: folder / f"{test}-{settings[reading]}.parquet" for reading in readings}


def _read(paths: Mapping[str, Path], task: Task, model: str) -> dict[str, Predictions]:
    return {
        reading: replace(Predictions.load(path), model=model, image_set=task.name)
        for reading, path in paths.items()
    }
