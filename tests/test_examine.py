"""Predictions are computed once per model, preparation and images."""

import os
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file

import synreal.models.predictions as examining
from synreal.data.decode import from_arrays, image_set_hash
from synreal.data.imageset import load_image_set
from synreal.data.worlds import World
from synreal.errors import InputError
from synreal.models import Card, save_checkpoint, small
from synreal.models.predictions import examine

NAMES = ("bag", "coat", "dress")
CARD = Card(
    name="tiny", role="tiny", library="timm", architecture=small.VIT_32, activation="gelu",
    weights="model.safetensors", image_size=32, resize=32, crop="none", interpolation="bilinear",
    mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), head="linear", class_names=NAMES, license="MIT",
)  # fmt: skip
PIXELS = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
LABELS = [0, 1, 2, 0, 1, 2, 0, 1]


def images(pixels=PIXELS, labels=LABELS, names=NAMES, **columns):
    return from_arrays(pixels, labels, names, columns)


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    monkeypatch.setenv("SYNREAL_CACHE", str(tmp_path / "cache"))
    torch.manual_seed(0)
    save_checkpoint(tmp_path / "tiny", timm.create_model(small.VIT_32, num_classes=3), CARD)
    return tmp_path / "tiny"


@pytest.fixture
def runs(monkeypatch):
    """The image sets that a model was really run on."""
    seen, original = [], examining.predict

    def counted(classifier, image_set, *rest, **more):
        seen.append(image_set)
        return original(classifier, image_set, *rest, **more)

    monkeypatch.setattr(examining, "predict", counted)
    return seen


def test_the_second_time_the_model_is_not_run(checkpoint, runs, tmp_path):
    world = World("mine", images(), None, None)
    first, second = (examine(str(checkpoint), world) for _ in range(2))
    assert len(runs) == 1 and len(list((tmp_path / "cache" / "predictions").iterdir())) == 1
    assert np.array_equal(first.logits, second.logits) and first.ids.tolist() == world.images["id"][:]
    assert (second.image_set, second.model, second.labels.tolist()) == ("mine", "tiny", LABELS)


def test_other_images_another_model_or_preparation_are_computed_anew(checkpoint, runs, tmp_path):
    examine(str(checkpoint), World("mine", images(), None, None))
    examine(str(checkpoint), World("mine", images(labels=LABELS[::-1]), None, None))
    assert len(runs) == 2
    torch.manual_seed(1)
    save_checkpoint(tmp_path / "other", timm.create_model(small.VIT_32, num_classes=3), CARD)
    examine(str(tmp_path / "other"), World("mine", images(), None, None))
    module = timm.create_model(small.VIT_32, num_classes=3)
    grey = CARD.model_copy(update={"std": (0.3, 0.3, 0.3)})
    module.load_state_dict(load_file(checkpoint / "model.safetensors"))
    save_checkpoint(tmp_path / "grey", module, grey)
    examine(str(tmp_path / "grey"), World("mine", images(), None, None))
    assert len(runs) == 4


def test_a_model_is_not_examined_on_what_its_card_says_it_learned_from(checkpoint, runs):
    told = CARD.model_copy(update={"training": {"data": "mine"}})
    save_checkpoint(checkpoint, timm.create_model(small.VIT_32, num_classes=3), told)
    with pytest.raises(InputError, match="tiny learned from mine"):
        examine(str(checkpoint), World("mine", images(), None, None))
    assert not runs


def test_names_are_those_of_the_call_and_not_of_the_stored_file(checkpoint, runs):
    world = World("mine", images(), None, None)
    examine(str(checkpoint), world)
    assert examine(str(checkpoint), replace(world, name="another name")).image_set == "another name"
    card = checkpoint / "card.yaml"
    card.write_text(card.read_text().replace("name: tiny", "name: renamed"))
    assert examine(str(checkpoint), world).model == "renamed"
    assert len(runs) == 1


def test_the_hash_follows_pixels_labels_ids_and_class_names():
    base = image_set_hash(images())
    assert base == image_set_hash(images()) and len(base) == 16
    pixels = PIXELS.copy()
    pixels[3, 5, 5, 0] ^= 1
    changed = [
        images(pixels),
        images(labels=[1, *LABELS[1:]]),
        images(names=("bag", "coat", "robe")),
        images(id=[f"x{i}" for i in range(8)]),
        images().select(range(7)),
        images().select([1, 0, *range(2, 8)]),
    ]
    hashes = {image_set_hash(ds) for ds in changed}
    assert len(hashes) == 6 and base not in hashes


def test_columns_that_no_model_sees_do_not_matter():
    more = images(caption=["a"] * 8, source=["elsewhere"] * 8, pose=[True] * 8)
    assert image_set_hash(more) == image_set_hash(images())


def test_images_left_on_disk_are_known_by_their_content(tmp_path):
    for row, label in enumerate(LABELS):
        folder = tmp_path / "photos" / NAMES[label]
        folder.mkdir(parents=True, exist_ok=True)
        images()["image"][row].save(folder / f"{row}.png")
    base = image_set_hash(load_image_set(tmp_path / "photos"))
    assert image_set_hash(load_image_set(tmp_path / "photos")) == base
    (tmp_path / "photos").rename(tmp_path / "moved")
    assert image_set_hash(load_image_set(tmp_path / "moved")) == base
    file = tmp_path / "moved" / "bag" / "0.png"
    times = file.stat().st_atime_ns, file.stat().st_mtime_ns
    images()["image"][0].transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(file)
    os.utime(file, ns=times)
    assert image_set_hash(load_image_set(tmp_path / "moved")) != base
