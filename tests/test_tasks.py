"""Target tasks: which images they hold, and that what is reported is the official test split."""

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from torchvision.datasets import Flowers102

from synreal.data.imageset import class_names, kind_of
from synreal.data.overlap import refuse_overlap
from synreal.data.published import benchmark, imagenet_wnids
from synreal.data.scenes import scene_set
from synreal.data.tasks import Counts, catalogue_set, of_classes, open_task
from synreal.errors import InputError

COUNTS = Counts(40, 30, 50)


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    shade = sum(path.as_posix().encode()) % 256
    Image.new("RGB", (8, 8), (shade, 0, 0)).save(path)


@pytest.fixture
def aircraft(tmp_path):
    data = tmp_path / "fgvc-aircraft-2013b" / "data"
    split_of = {"train": ["01", "02"], "val": ["03"], "test": ["04", "05", "06"]}
    for split, keys in split_of.items():
        lines = [f"{key} {'707-320' if int(key) % 2 else 'A320'}" for key in keys]
        for key in keys:
            picture(data / "images" / f"{key}.jpg")
        (data / f"images_variant_{split}.txt").write_text("\n".join(lines) + "\n")
    (data / "variants.txt").write_text("707-320\nA320\n")
    return tmp_path


@pytest.fixture
def flowers(tmp_path, monkeypatch):
    """Image i is of class i % 2; images 1, 2 are for training, 3, 4 for validation and 5 to 9 for test."""
    base = tmp_path / "flowers-102"
    for key in range(1, 10):
        picture(base / "jpg" / f"image_{key:05d}.jpg")
    savemat(base / "setid.mat", {"trnid": [1, 2], "valid": [3, 4], "tstid": [5, 6, 7, 8, 9]})
    savemat(base / "imagelabels.mat", {"labels": [key % 2 + 1 for key in range(1, 10)]})
    monkeypatch.setattr(Flowers102, "_check_integrity", lambda self: True)  # knows the real files' checksums
    return tmp_path


@pytest.fixture
def imagenet(tmp_path):
    for wnid in imagenet_wnids()[:2]:
        for number in range(60):
            picture(tmp_path / "train" / wnid / f"{wnid}_{number}.JPEG")
        picture(tmp_path / "val" / wnid / f"ILSVRC2012_val_0000000{imagenet_wnids().index(wnid)}.JPEG")
    return tmp_path


def numbers(images):
    return [int("".join(c for c in key.rpartition("/")[2] if c.isdigit())) for key in images["id"]]


def test_what_is_reported_is_the_official_test_split(aircraft, flowers):
    assert numbers(benchmark("aircraft", aircraft, "test")) == [4, 5, 6]
    assert numbers(benchmark("flowers", flowers, "test")) == [5, 6, 7, 8, 9]
    task = open_task(f"flowers:{flowers}")
    assert [numbers(part) for part in (task.train, task.val, task.test)] == [[1, 2], [3, 4], [5, 6, 7, 8, 9]]
    assert kind_of(task.test) == kind_of(benchmark("aircraft", aircraft, "val")) == "real"
    assert task.test["label"][:] == [1, 0, 1, 0, 1] and task.class_names[0] == "pink primrose"


def test_imagenet_is_reported_on_its_validation_images_and_holds_some_training_images_out(imagenet):
    train, val, test = (benchmark("imagenet", imagenet, split) for split in ("train", "val", "test"))
    assert all(key.startswith("ILSVRC2012_val") for key in test["id"])
    assert len(val) == 3 and len(train) == 117 and not set(train["id"]) & set(val["id"])


def test_a_part_of_the_classes_keeps_their_order_and_images():
    whole, tops = open_task("scenes", COUNTS), open_task("scenes:tops", COUNTS)
    assert tops.class_names == ["t-shirt", "pullover", "coat", "shirt"] and whole.name == "all classes"
    named = dict(
        zip(whole.test["id"], [whole.class_names[label] for label in whole.test["label"]], strict=True)
    )
    assert [tops.class_names[label] for label in tops.test["label"]] == [
        named[key] for key in tops.test["id"]
    ]
    assert len(tops.test) == sum(name in tops.class_names for name in named.values())
    assert set(tops.clusters.index) == set(tops.test["id"])


def test_no_split_of_a_task_shares_an_image_with_another():
    for name in ("scenes", "catalogue"):
        task = open_task(name, COUNTS)
        for other in (task.train, task.val):
            refuse_overlap(other, task.test)


def test_the_catalogue_shows_garments_alone():
    images = catalogue_set("test", 50)
    labels = np.array(images["label"][:])
    assert np.bincount(labels).tolist() == [5] * 10 and len(set(images["cluster"])) == 50
    pixels = np.asarray(images[0]["image"])
    assert pixels.shape == (32, 32, 3) and (pixels[:2] == 0).all() and pixels.max() > 0


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("scenes:bags", "expected one of tops, footwear"),
        ("pets", "expected scenes, scenes:GROUP, catalogue"),
        ("pets:data", "task pets: data lacks train and test"),
        ("catalogue:tops", "expected scenes, scenes:GROUP, catalogue"),
        ("aircraft:nowhere", "torchvision finds no aircraft"),
        ("dtd:$NO_SUCH_VARIABLE", "set the environment variable"),
    ],
)
def test_a_task_that_cannot_be_opened_says_what_can(source, message):
    with pytest.raises(InputError, match=message):
        open_task(source, COUNTS)


def test_counts_and_classes_that_cannot_be_had_are_refused():
    with pytest.raises(InputError, match="of each in test"):
        catalogue_set("test", 100_000)
    scenes = scene_set("val", 20)
    with pytest.raises(InputError, match=r"\['hat'\] are not among"):
        of_classes(scenes, ["hat", "coat"])
    with pytest.raises(InputError, match="no image of"):
        of_classes(of_classes(scenes, class_names(scenes)).select(range(1)), ["coat", "sandal"][:1])
