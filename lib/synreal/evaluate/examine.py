"""Predictions that are computed once: kept on disk by model, preparation and images."""

from dataclasses import replace

from synreal.data.fingerprint import image_set_hash
from synreal.data.worlds import World
from synreal.evaluate.guard import refuse_learned
from synreal.evaluate.predictions import Predictions, predict
from synreal.models.card import Card, load_card
from synreal.models.load import load_classifier
from synreal.paths import cache_dir


def examine(checkpoint: Card | str, world: World, batch_size: int = 256, device: str = "cpu") -> Predictions:
    """`answers` of a checkpoint that is to be judged by them.

    Raises InputError when the checkpoint's card says that it learned from this world, or was chosen on it.
    """
    card = checkpoint if isinstance(checkpoint, Card) else load_card(checkpoint)
    refuse_learned(card, world.name)
    return answers(card, world, batch_size, device)


def answers(checkpoint: Card | str, world: World, batch_size: int = 256, device: str = "cpu") -> Predictions:
    """The predictions of a checkpoint (card, name or folder) on a world's images, computed at most once.

    They are kept in the cache under the hashes of the model, its preparation of images, and the images; the
    names of model and world are not part of these, and are those of this call.
    """
    classifier = load_classifier(checkpoint, device=device)
    key = f"{classifier.model_hash}-{classifier.preprocess_hash}-{image_set_hash(world.images)}"
    path = cache_dir() / "predictions" / f"{key}.parquet"
    if not path.exists():
        predict(classifier, world.images, batch_size, name=world.name).save(path)
    return replace(Predictions.load(path), model=classifier.card.name, image_set=world.name)
