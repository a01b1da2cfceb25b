"""Object scale and blocked objects from the boxes of a detector (P1 sec. 3)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import datasets
import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import nn

from synreal.models.classifier import weights_hash
from synreal.models.yolo import DetectionPredictor, load_detector_module, load_published, set_vocabulary
from synreal.synbench.measures import YES_NO, decoded

EDGES = ("x0", "y0", "x1", "y1")
COLUMNS = ("id", "name", "confidence", *EDGES)


class Detector(Protocol):
    """Finds objects on the images of a set."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """What it can find."""

    @property
    def fingerprint(self) -> str:
        """Tells detectors apart that find different boxes."""

    def detect(self, images: datasets.Dataset) -> pd.DataFrame:
        """One row per box, in the order of the images: id of the image, name of the class, confidence in
        0..1, and the edges x0, y0, x1, y1 as shares of the width and height, in 0..1.

        An image without a box has no row.
        """


@dataclass(frozen=True, eq=False)
class YoloDetector:
    """An ultralytics network. The results do not depend on `batch_size`, nor on the order of the images."""

    module: nn.Module
    image_size: int  # pixels; an image is scaled into a square of this side, keeping its proportions
    confidence: float = 0.25  # boxes below are left out; ultralytics' default
    overlap: float = 0.7  # of two boxes of one class with a larger intersection over union, one stays
    batch_size: int = 64
    device: str = "cpu"
    class_names: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        names = dict(getattr(self.module, "names", {}))
        object.__setattr__(self, "class_names", tuple(names[number] for number in sorted(names)))

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits of the weights, the classes and the thresholds."""
        settings = (self.class_names, self.image_size, self.confidence, self.overlap)
        words = getattr(self.module, "txt_feats", torch.zeros(0))  # of YOLO-World, no part of its state
        return weights_hash(self.module.state_dict() | {"txt_feats": words}, repr(settings))

    def detect(self, images: datasets.Dataset) -> pd.DataFrame:
        """See `Detector`. Images are decoded as they are needed, so memory does not grow with their number.

        Raises InputError as `measure.decoded`.
        """
        predictor = self._predictor()
        parts = [_no_boxes()]
        pairs = decoded(images)
        while batch := list(islice(pairs, self.batch_size)):
            # an array would be taken for blue, green, red
            results = predictor([Image.fromarray(pixels) for _, pixels in batch])
            parts.append(self._table([key for key, _ in batch], results))
        return pd.concat([part for part in parts if len(part)] or parts, ignore_index=True)

    def _predictor(self) -> DetectionPredictor:
        settings = {
            "imgsz": self.image_size, "conf": self.confidence, "iou": self.overlap, "device": self.device,
            "rect": False,  # otherwise the padding of an image depends on the shapes of its neighbours
            "save": False, "verbose": False,
        }  # fmt: skip
        predictor = DetectionPredictor(overrides=settings)
        predictor.setup_model(self.module, verbose=False)
        return predictor

    def _table(self, ids: Sequence[str], results: Sequence[Any]) -> pd.DataFrame:
        counts = [len(result.boxes) for result in results]
        boxes = torch.cat([result.boxes.data for result in results]).cpu().numpy().astype(np.float64)
        heights, widths = np.repeat([result.orig_shape for result in results], counts, axis=0).T
        sides = np.column_stack([widths, heights, widths, heights])
        table = {
            "id": np.repeat(np.array(ids), counts),
            "name": np.array(self.class_names)[boxes[:, 5].astype(int)],
            "confidence": boxes[:, 4],
        }
        return pd.DataFrame(table | dict(zip(EDGES, (boxes[:, :4] / sides).T, strict=True)))


class LastSeen:
    """A detector that keeps the boxes of the last image set, for measures that look at the same boxes."""

    def __init__(self, detector: Detector) -> None:
        self.detector = detector
        self.class_names, self.fingerprint = detector.class_names, detector.fingerprint
        self._seen, self._boxes = "", _no_boxes()

    def detect(self, images: datasets.Dataset) -> pd.DataFrame:
        """See `Detector`; the set is recognised by the fingerprint that `datasets` gives it."""
        if images._fingerprint != self._seen:
            self._boxes, self._seen = self.detector.detect(images), images._fingerprint
        return self._boxes.copy()


def load_detector(folder: str | Path, device: str = "cpu") -> YoloDetector:
    """A detector of ours, such as the one in the zoo; raises InputError as `load_detector_module`."""
    module, card = load_detector_module(folder)
    return YoloDetector(module, card.image_size, device=device)


def published_detector(
    name: str, class_names: Sequence[str] | None = None, image_size: int = 640, device: str = "cpu"
) -> YoloDetector:
    """P1's detectors: "yolov5su.pt" with COCO's classes, or "yolov8s-worldv2.pt" with `class_names`.

    Raises InputError as `load_published`, and as `set_vocabulary` when there are class names.
    """
    module = load_published(name)
    if class_names is not None:
        set_vocabulary(module, class_names)
    return YoloDetector(module, image_size, device=device)


def _no_boxes() -> pd.DataFrame:
    return pd.DataFrame(columns=list(COLUMNS)).astype(
        {name: "str" if name in ("id", "name") else "float64" for name in COLUMNS}
    )


# Object scale: the share of the image that the central object takes (P1 sec. 3.2, Fig. 5a).


PERSON = "person"  # as COCO and the detectors here call the class
STEP = 0.05  # of the side; see central_objects


@dataclass(frozen=True)
class Scale:
    """Share of the image's area that the central object's box covers, 0 to 1; NaN where none is found."""

    detector: Detector
    confidence: float = 0.25  # a box counts from here on
    name: str = "object scale"
    unit: str = "share of the image"

    @property
    def fingerprint(self) -> str:
        """What the values depend on besides the images."""
        return f"{self.detector.fingerprint} {self.confidence}"

    def values(self, images: datasets.Dataset) -> pd.Series:
        """One value per image, indexed by image id, in the order of the images."""
        objects = central_objects(self.detector.detect(images), labels_of(images), self.confidence)
        return box_area(objects).rename(self.name)


def central_objects(boxes: pd.DataFrame, labels: pd.Series, confidence: float = 0.25) -> pd.DataFrame:
    """The box of each image's central object: the columns of `boxes`, indexed by image id, NaN where none.

    labels: class name by image id; its order is that of the result.
    P1 does not say which object is central. Here: of the boxes with at least the given confidence, those of
    the labelled class, or else those that show no person; among them the one whose centre is nearest to the
    image's centre, and of equally near ones the most confident. Distances are compared in steps of 5 % of the
    side, so that several boxes on one object are equally near.
    """
    found = boxes[boxes["confidence"] >= confidence].reset_index(drop=True)
    labelled = found["name"] == found["id"].map(labels)
    candidates = found[labelled | (found["name"] != PERSON)]
    rank = pd.DataFrame(
        {
            "other": ~labelled.loc[candidates.index],
            "distance": _steps_off_centre(candidates),
            "doubt": -candidates["confidence"],
        }
    )
    order = rank.sort_values(list(rank.columns), kind="stable").index
    return candidates.loc[order].drop_duplicates("id").set_index("id").reindex(labels.index)


def labels_of(images: datasets.Dataset) -> pd.Series:
    """Class name of each image, indexed by image id."""
    names: Sequence[str] = images.features["label"].names
    return pd.Series(
        [names[number] for number in images["label"]], index=pd.Index(images["id"][:], name="id")
    )


def box_area(boxes: pd.DataFrame) -> pd.Series:
    """Share of the image's area, 0 to 1."""
    return (boxes["x1"] - boxes["x0"]) * (boxes["y1"] - boxes["y0"])


def _steps_off_centre(boxes: pd.DataFrame) -> pd.Series:
    x, y = (boxes["x0"] + boxes["x1"]) / 2 - 0.5, (boxes["y0"] + boxes["y1"]) / 2 - 0.5
    return (np.hypot(x, y) / STEP).round()


# Person blocking by boxes: a cheap stand-in for the judge of P1 sec. 3.2 (Fig. 5c), who sees the image.


@dataclass(frozen=True)
class PersonOverlap:
    """1 where a person stands before the central object, 0 where none does.

    A person is in front when its box covers at least `covered` of the object's box; one who stands beside the
    object covers less of it. With true boxes of 6,000 validation scenes a third finds 98 % of the persons in
    front and takes 2 % of those beside for one; asking for the person's centre within the object adds
    nothing. Boxes know no depth, so a person behind the object counts as well.
    Without a person the value is 0, whether or not there is an object. With a person but no object it is NaN:
    the person may hide the object, or there may be none.
    `objects` and `persons` may be one detector; P1 takes YOLO-World and YOLOv5.
    """

    objects: Detector
    persons: Detector
    covered: float = 1 / 3
    confidence: float = 0.25  # a box counts from here on
    name: str = "person blocking"
    unit: str = YES_NO

    @property
    def fingerprint(self) -> str:
        """What the values depend on besides the images."""
        return f"{self.objects.fingerprint} {self.persons.fingerprint} {self.covered} {self.confidence}"

    def values(self, images: datasets.Dataset) -> pd.Series:
        """One value per image, indexed by image id, in the order of the images; the mean is the share."""
        objects = central_objects(self.objects.detect(images), labels_of(images), self.confidence)
        people = person_boxes(self.persons.detect(images), self.confidence)
        return _blocked(objects, people, self.covered).rename(self.name)


@dataclass(frozen=True)
class PersonFinder:
    """Which images show a person, by boxes: whom P1 asks its judge about (YOLOv5, sec. 3.2)."""

    detector: Detector
    confidence: float = 0.25  # a box counts from here on

    @property
    def fingerprint(self) -> str:
        """See `questions.Persons`."""
        return f"{self.detector.fingerprint} {self.confidence}"

    def __call__(self, images: datasets.Dataset) -> pd.Series:
        """True or False, indexed by image id, in the order of the images."""
        people = person_boxes(self.detector.detect(images), self.confidence)
        ids = pd.Index(images["id"][:], name="id")
        return pd.Series(ids.isin(people["id"]), ids, name=PERSON)


def person_boxes(boxes: pd.DataFrame, confidence: float = 0.25) -> pd.DataFrame:
    """The boxes of persons with at least this confidence."""
    return boxes[(boxes["name"] == PERSON) & (boxes["confidence"] >= confidence)]


def _blocked(objects: pd.DataFrame, people: pd.DataFrame, covered: float) -> pd.Series:
    """1, 0 or NaN per row of `objects`; see `PersonOverlap`."""
    pairs = people.merge(objects, "left", left_on="id", right_index=True, suffixes=("", "_object"))
    thing = pairs[[f"{edge}_object" for edge in EDGES]].set_axis(list(EDGES), axis=1)
    front = _shared_area(pairs, thing) >= covered * box_area(thing)
    known = front.astype(float).where(thing["x0"].notna())
    return known.groupby(pairs["id"]).max().reindex(objects.index, fill_value=0.0)


def _shared_area(one: pd.DataFrame, other: pd.DataFrame) -> pd.Series:
    """Area of the boxes' intersection, row by row."""
    width = np.minimum(one["x1"], other["x1"]) - np.maximum(one["x0"], other["x0"])
    height = np.minimum(one["y1"], other["y1"]) - np.maximum(one["y0"], other["y0"])
    return width.clip(lower=0) * height.clip(lower=0)
