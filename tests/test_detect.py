"""Boxes, the central object, persons in front of it, and the detector's training."""

import socket
from copy import deepcopy
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Image
from hypothesis import given, settings
from hypothesis import strategies as st

from synreal.data.decode import from_arrays
from synreal.data.scenes import scene_arrays
from synreal.errors import InputError
from synreal.models import yolo
from synreal.synbench.detect import (
    COLUMNS,
    LastSeen,
    PersonFinder,
    PersonOverlap,
    Scale,
    YoloDetector,
    central_objects,
    labels_of,
    load_detector,
    person_boxes,
    published_detector,
)
from synreal.train import detector as training

TINY = {
    "reg_max": 4,
    "backbone": [[-1, 1, "Conv", [8, 3, 2]], [-1, 1, "Conv", [16, 3, 2]]],
    "head": [[[1], 1, "Detect", ["nc"]]],
}
CLASSES = ("bag", "coat", "person")
CARD = yolo.DetectorCard(name="tiny", architecture=TINY, class_names=CLASSES, image_size=32)


@pytest.fixture(scope="module")
def network(random_weights):
    """A detector with random weights, unsure enough to find something on every image."""
    return random_weights(yolo.build_detector(CARD))


def image_set(count=6, sizes=((32, 32),), labels=None):
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (*sizes[i % len(sizes)], 3), dtype=np.uint8) for i in range(count)]
    names = labels or ["bag"] * count
    return from_arrays(
        images, [CLASSES.index(n) for n in names], CLASSES, {"id": [f"i{i}" for i in range(count)]}
    )


def rows(*boxes):
    """A table of boxes from (id, name, confidence, x0, y0, x1, y1)."""
    return pd.DataFrame(boxes, columns=list(COLUMNS))


@dataclass
class Fixed:
    """A detector that always finds the same boxes, and counts how often it is asked."""

    boxes: pd.DataFrame
    class_names: tuple[str, ...] = CLASSES
    asked: list = field(default_factory=list)
    fingerprint: str = "fixed"

    def detect(self, images):
        self.asked.append(len(images))
        return self.boxes


# --- boxes ---


@pytest.mark.parametrize("sizes", [((32, 32),), ((32, 32), (20, 60), (90, 45))])
def test_batches_find_what_ultralytics_finds_image_by_image(network, sizes):
    images = image_set(7, sizes)
    found = YoloDetector(network, 32, confidence=0.5, batch_size=3).detect(images)
    one = YoloDetector(network, 32, confidence=0.5)._predictor()
    expected = [one(picture)[0].boxes for picture in images["image"]]
    assert found["id"].tolist() == [f"i{i}" for i, boxes in enumerate(expected) for _ in range(len(boxes))]
    assert found["name"].tolist() == [CLASSES[int(c)] for boxes in expected for c in boxes.cls]
    edges = np.concatenate([boxes.xyxyn.numpy() for boxes in expected])
    np.testing.assert_allclose(found[["x0", "y0", "x1", "y1"]], edges, atol=1e-4)
    np.testing.assert_allclose(
        found["confidence"], np.concatenate([b.conf.numpy() for b in expected]), atol=1e-4
    )
    assert len(found) > 10
    assert edges.min() >= 0
    assert edges.max() <= 1


def test_neither_batch_size_nor_neighbours_change_a_box(network):
    images = image_set(7, ((20, 60), (20, 60), (32, 32)))
    whole = YoloDetector(network, 32, batch_size=7).detect(images)
    turned = YoloDetector(network, 32, batch_size=2).detect(images.select([6, 5, 4, 3, 2, 1, 0]))
    turned = turned.sort_values("id", kind="stable", ignore_index=True)
    pd.testing.assert_frame_equal(whole, turned, atol=1e-4)


def test_images_without_a_box_have_no_row(network):
    found = YoloDetector(network, 32, confidence=1.0).detect(image_set(3))
    assert tuple(found.columns) == COLUMNS
    assert len(found) == 0
    some = YoloDetector(network, 32, confidence=0.5).detect(image_set(3))
    assert found.dtypes.to_dict() == some.dtypes.to_dict()


def test_colours_are_not_swapped(network):
    pixels = np.zeros((2, 32, 32, 3), np.uint8)
    pixels[0, :, :16, 0], pixels[1, :, :16, 2] = 255, 255  # red, blue
    images = from_arrays(pixels, [0, 0], CLASSES, {"id": ["red", "blue"]})
    found = YoloDetector(network, 32, confidence=0.0).detect(images).groupby("id")["confidence"].max()
    with torch.no_grad():
        whole = network(torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255)[0]
    np.testing.assert_allclose(found[["red", "blue"]], whole[:, 4:].amax((1, 2)), rtol=1e-4)
    assert abs(found["red"] - found["blue"]) > 1e-3


def test_an_image_that_cannot_be_decoded_is_named(network):
    images = image_set(4)
    content = [*images.cast_column("image", Image(decode=False))["image"]]
    content[3]["bytes"] = content[3]["bytes"][:40]
    damaged = images.remove_columns("image").add_column("image", content).cast_column("image", Image())
    with pytest.raises(InputError, match=r"image i3: cannot be decoded .* unreadable='drop'"):
        YoloDetector(network, 32).detect(damaged)


def test_fingerprints_tell_detectors_apart(network):
    same = [YoloDetector(network, 32), YoloDetector(deepcopy(network), 32, batch_size=3)]
    other = deepcopy(network)
    other.model[0].conv.weight.data[0, 0, 0, 0] += 1
    different = [
        YoloDetector(other, 32),
        YoloDetector(network, 64),
        YoloDetector(network, 32, confidence=0.3),
    ]
    assert len({detector.fingerprint for detector in same}) == 1
    assert len({detector.fingerprint for detector in (*same, *different)}) == 4
    assert Scale(same[0]).fingerprint == Scale(LastSeen(same[1])).fingerprint
    assert Scale(same[0]).fingerprint != Scale(same[0], confidence=0.4).fingerprint
    once, twice = (PersonOverlap(same[0], second) for second in (same[0], different[0]))
    assert once.fingerprint != twice.fingerprint


def test_two_measures_share_one_pass():
    inner = Fixed(rows(("i0", "bag", 0.9, 0.0, 0.0, 1.0, 1.0)))
    shared, images = LastSeen(inner), image_set(2)
    Scale(shared).values(images)
    PersonOverlap(shared, shared).values(images)
    assert inner.asked == [2]
    Scale(shared).values(images.select([0]))
    assert inner.asked == [2, 1]


def test_detectors_load_from_a_folder_and_from_published_files(network, tmp_path, monkeypatch):
    yolo.save_detector(tmp_path / "ours", network, CARD)
    ours = load_detector(tmp_path / "ours")
    assert (ours.class_names, ours.image_size) == (CLASSES, 32)
    monkeypatch.setenv(yolo.WEIGHTS_ENV, str(tmp_path))
    torch.save({"model": network}, tmp_path / "yolov5su.pt")
    theirs = published_detector("yolov5su.pt", image_size=32)
    pd.testing.assert_frame_equal(theirs.detect(image_set()), YoloDetector(network, 32).detect(image_set()))
    assert len(ours.detect(image_set())) > 10
    with pytest.raises(InputError, match="expected a YOLO-World network"):
        published_detector("yolov5su.pt", class_names=["bag"])


# --- the central object ---


def central(*boxes, label="bag", **more):
    return central_objects(rows(*boxes), pd.Series({"a": label}), **more).loc["a"]


def test_the_labelled_class_comes_first_then_the_nearest_then_the_surest():
    middle, corner, close = (0.4, 0.4, 0.6, 0.6), (0.0, 0.0, 0.2, 0.2), (0.41, 0.4, 0.61, 0.6)
    assert central(("a", "coat", 0.9, *middle), ("a", "bag", 0.3, *corner))["name"] == "bag"
    assert central(("a", "coat", 0.9, *corner), ("a", "coat", 0.3, *middle))["confidence"] == 0.3
    assert central(("a", "coat", 0.5, *middle), ("a", "bag", 0.4, *middle), label="shoe")["name"] == "coat"
    assert central(("a", "coat", 0.5, *middle), ("a", "bag", 0.6, *close), label="shoe")["name"] == "bag"


def test_a_person_is_no_object_unless_it_is_the_label():
    box = ("a", "person", 0.9, 0.4, 0.4, 0.6, 0.6)
    assert pd.isna(central(box)["name"])
    assert central(box, label="person")["name"] == "person"
    assert central(box, ("a", "coat", 0.3, 0.0, 0.0, 0.1, 0.1))["name"] == "coat"


def test_boxes_below_the_confidence_do_not_count():
    box = ("a", "bag", 0.4, 0.4, 0.4, 0.6, 0.6)
    assert central(box, confidence=0.4)["x0"] == 0.4
    assert pd.isna(central(box, confidence=0.41)["x0"])


boxes_of_one_image = st.lists(
    st.tuples(
        st.just("a"), st.sampled_from(CLASSES), st.integers(25, 99).map(lambda c: c / 100),
        *[st.floats(0, 0.5)] * 2, *[st.floats(0.5, 1)] * 2,
    ),
    max_size=6, unique_by=lambda box: box[2],
)  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(boxes_of_one_image, st.sampled_from(CLASSES), st.randoms())
def test_the_central_object_does_not_depend_on_the_order_of_boxes(boxes, label, random):
    mixed = random.sample(boxes, len(boxes))
    pd.testing.assert_series_equal(central(*boxes, label=label), central(*mixed, label=label))
    chosen = central(*boxes, label=label)["confidence"]
    some = [box for box in boxes if box[1] != "person" or label == "person"]
    assert chosen in [box[2] for box in some] if some else pd.isna(chosen)


def test_scale_is_the_share_of_the_area_in_the_order_of_the_images():
    boxes = rows(("i2", "bag", 0.9, 0.25, 0.0, 0.75, 1.0), ("i0", "bag", 0.9, 0.4, 0.4, 0.6, 0.9))
    values = Scale(Fixed(boxes)).values(image_set(3))
    assert values.index.tolist() == ["i0", "i1", "i2"]
    np.testing.assert_allclose(values, [0.1, np.nan, 0.5])
    assert (values.name, values.dtype) == ("object scale", np.float64)


def test_labels_are_read_by_name():
    labels = labels_of(image_set(3, labels=["coat", "bag", "person"]))
    assert labels.to_dict() == {"i0": "coat", "i1": "bag", "i2": "person"}


# --- persons ---

OBJECT = ("bag", 0.9, 0.2, 0.2, 0.8, 0.8)


@pytest.mark.parametrize(
    ("person", "expected"),
    [
        ((0.35, 0.1, 0.65, 1.0), 1.0),  # before the middle: half of the object
        ((0.2, 0.2, 0.4, 0.8), 1.0),  # exactly a third
        ((0.2, 0.2, 0.39, 0.8), 0.0),  # a little less
        ((0.0, 0.1, 0.3, 1.0), 0.0),  # beside: overlaps a sixth
        ((0.85, 0.1, 1.0, 1.0), 0.0),  # does not touch it
    ],
)
def test_a_person_in_front_covers_a_third_of_the_object(person, expected):
    boxes = rows(("i0", *OBJECT), ("i0", "person", 0.8, *person))
    assert PersonOverlap(Fixed(boxes), Fixed(boxes)).values(image_set(1)).tolist() == [expected]


def test_one_person_of_several_is_enough():
    people = [("i0", "person", 0.8, 0.0, 0.0, 0.1, 1.0), ("i0", "person", 0.5, 0.3, 0.0, 0.7, 1.0)]
    boxes = rows(("i0", *OBJECT), *people)
    assert PersonOverlap(Fixed(boxes), Fixed(boxes)).values(image_set(1)).tolist() == [1.0]


def test_a_person_without_an_object_is_undecided_and_no_person_is_zero():
    boxes = rows(("i0", "person", 0.8, 0.3, 0.0, 0.7, 1.0), ("i2", *OBJECT))
    values = PersonOverlap(Fixed(boxes), Fixed(boxes)).values(image_set(4))
    np.testing.assert_array_equal(values, [np.nan, 0.0, 0.0, 0.0])
    assert values.index.tolist() == ["i0", "i1", "i2", "i3"]


@pytest.mark.parametrize(
    "boxes", [rows(), rows(("i0", *OBJECT)), rows(("i0", "person", 0.2, 0.0, 0.0, 1.0, 1.0))]
)
def test_a_set_without_persons_is_all_zero(boxes):
    values = PersonOverlap(Fixed(boxes), Fixed(boxes)).values(image_set(3))
    assert values.tolist() == [0.0, 0.0, 0.0]
    assert (values.name, values.dtype) == ("person blocking", np.float64)


def test_objects_and_persons_may_come_from_two_detectors():
    objects, people = rows(("i0", *OBJECT)), rows(("i0", "person", 0.8, 0.3, 0.0, 0.7, 1.0))
    assert PersonOverlap(Fixed(objects), Fixed(people)).values(image_set(1)).tolist() == [1.0]
    assert PersonFinder(Fixed(people))(image_set(2)).to_dict() == {"i0": True, "i1": False}
    assert person_boxes(people, confidence=0.9).empty


def test_true_boxes_tell_persons_in_front_from_those_beside():
    _, truth = scene_arrays("val", 600)
    edges = ["x0", "y0", "x1", "y1"]
    objects = truth[["id", *edges]].assign(name="bag", confidence=1.0)
    people = truth[["id", *(f"person_{e}" for e in edges)]].set_axis(["id", *edges], axis=1)
    boxes = pd.concat([objects, people.assign(name="person", confidence=1.0).dropna()])
    images = image_set(1).select([0] * 600).remove_columns("id").add_column("id", truth["id"].tolist())
    blocked = PersonOverlap(Fixed(boxes), Fixed(boxes)).values(images)
    where = truth.set_index("id")["person"]
    assert blocked[where == "in front"].mean() > 0.9
    assert blocked[where == "beside"].mean() < 0.15
    assert (blocked[where == "none"] == 0).all()


# --- training ---


def test_lines_hold_every_object_that_shows():
    _, truth = scene_arrays("train", 300)
    lines = [line.split("\n") for line in training.box_lines(truth)]
    numbers = np.array([row.split() for scene in lines for row in scene], float)
    persons = truth["person"] != "none"
    assert (numbers[:, 0] == 1).sum() == persons.sum()
    assert (numbers[:, 0] == 0).sum() == 300 + (truth["second_label"] >= 0).sum()
    assert [scene[-1].startswith("1 ") for scene in lines] == persons.tolist()
    assert numbers[:, 1:].min() >= 0
    assert numbers[:, 1:].max() <= 1


def test_lines_are_clipped_to_the_frame():
    nowhere = {edge: [np.nan] for edge in ("x0", "y0", "x1", "y1")}
    boxes = {"x0": [-0.2], "y0": [0.1], "x1": [0.4], "y1": [0.5]}
    boxes |= {f"second_{edge}": value for edge, value in nowhere.items()}
    boxes |= {"person_x0": [0.9], "person_y0": [0.2], "person_x1": [1.1], "person_y1": [0.8]}
    assert training.box_lines(pd.DataFrame(boxes)) == [
        "0 0.20000 0.30000 0.40000 0.40000\n1 0.95000 0.50000 0.10000 0.60000"
    ]


def test_training_scenes_show_what_is_rare():
    _, truth = training.varied_scenes("train", 300)
    assert truth["person"].value_counts(normalize=True)["in front"] > 0.12
    assert (truth["scale"] < 0.52).mean() > 0.05
    assert (truth["scale"] > 0.98).mean() > 0.05
    plain = scene_arrays("train", 300)[1]
    assert (truth["label"] == plain["label"]).all()
    assert (truth["exposure"] == plain["exposure"]).all()


RECIPE = training.DetectorRecipe(scenes=96, validation=32, epochs=2, batch_size=16)


def losses(work):
    return pd.read_csv(next(work.glob("run-*/results.csv"))).set_index("epoch")["train/box_loss"]


def test_training_learns_offline_and_goes_on_after_an_interruption(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "ARCHITECTURE", TINY)
    connections = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *where, **_: connections.append(where) or [])
    save = training._SceneTrainer.save_model

    def interrupted(trainer):
        save(trainer)
        raise KeyboardInterrupt

    monkeypatch.setattr(training._SceneTrainer, "save_model", interrupted)
    with pytest.raises(KeyboardInterrupt):
        training.train_detector(tmp_path / "out", tmp_path / "work", RECIPE)
    assert losses(tmp_path / "work").index.tolist() == [1]
    monkeypatch.setattr(training._SceneTrainer, "save_model", save)
    card = training.train_detector(tmp_path / "out", tmp_path / "work", RECIPE)
    found = losses(tmp_path / "work")
    assert found.index.tolist() == [1, 2]
    assert found[2] < found[1]
    assert set(card.expected) == {"mAP50", "mAP50-95"}
    assert load_detector(tmp_path / "out").class_names == ("garment", "person")
    assert connections == []


def test_the_shipped_architecture_is_small():
    card = yolo.DetectorCard(
        name="scenes", architecture=training.ARCHITECTURE, class_names=training.NAMES, image_size=32
    )
    module = yolo.build_detector(card)
    assert 2 * sum(tensor.numel() for tensor in module.state_dict().values()) < 2.5e6  # bytes in float16
