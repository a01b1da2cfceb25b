"""Data sets from outside the world: splits, determinism, and what is said when images are not there."""

import numpy as np
import pytest
from PIL import Image

from synreal.data.decode import to_arrays
from synreal.data.imageset import class_names, kind_of
from synreal.data.published import drawn_digits, handwritten_digits, transfer_set
from synreal.errors import InputError


def test_handwritten_digits_are_split_without_overlap():
    train, test = (handwritten_digits(split) for split in ("train", "test"))
    assert (len(train), len(test)) == (900, 897) and class_names(train) == list("0123456789")
    assert not set(train["id"]) & set(test["id"])
    assert kind_of(train) == "real" and kind_of(drawn_digits(2)) == "synthetic"
    images, labels = to_arrays(test)
    assert images.shape == (897, 32, 32, 3) and images.dtype == np.uint8
    assert (images[..., 0] == images[..., 1]).all() and images.max() == 255
    assert np.bincount(labels).min() > 80  # every digit is tested


def test_drawn_digits_are_a_function_of_the_seed():
    images, labels = to_arrays(drawn_digits(40, seed=1))
    again, _ = to_arrays(drawn_digits(40, seed=1))
    other, _ = to_arrays(drawn_digits(40, seed=2))
    assert (images == again).all() and (images != other).any()
    assert labels.tolist() == [row % 10 for row in range(40)]
    lit = (images > 128).mean(axis=(1, 2, 3))
    assert lit.min() > 0.02 and lit.max() < 0.5  # a stroke on black, inside the frame


@pytest.mark.parametrize(
    ("name", "place"), [("caltech101", "101_ObjectCategories"), ("eurosat", "eurosat/2750")]
)
def test_missing_images_say_what_to_put_where(name, place, tmp_path):
    with pytest.raises(InputError, match=f"{name}: .*put into it .*{place}"):
        transfer_set(f"{name}:{tmp_path}", "train")


def write_classes(folder, names, count):
    for label, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for number in range(1, count + 1):
            Image.new("RGB", (8, 8), (40 * label, number, 0)).save(folder / name / f"image_{number:04d}.jpg")


def test_eurosat_is_split_once_by_class(tmp_path):
    write_classes(tmp_path / "eurosat" / "2750", ["Forest", "River"], 10)
    train, test = (transfer_set(f"eurosat:{tmp_path}", split) for split in ("train", "test"))
    assert (len(train), len(test)) == (16, 4) and class_names(test) == ["Forest", "River"]
    assert not set(train["id"]) & set(test["id"]) and sorted(test["label"]) == [0, 0, 1, 1]
    assert kind_of(train) == "real"


def test_caltech101_leaves_the_background_out(tmp_path):
    folder = tmp_path / "caltech101" / "101_ObjectCategories"
    write_classes(folder, ["BACKGROUND_Google", "ant", "chair"], 5)
    test = transfer_set(f"caltech101:{tmp_path}", "test")
    assert class_names(test) == ["ant", "chair"] and len(test) == 2 and kind_of(test) == "real"
    images, labels = to_arrays(test)
    assert (images[:, 0, 0, 0] > 20).all() and labels.tolist() == [0, 1]


def test_a_folder_of_your_own_with_splits(tmp_path):
    for split in ("train", "test"):
        write_classes(tmp_path / split, ["a", "b"], 3)
    assert len(transfer_set(str(tmp_path), "test")) == 6
