"""Person blocking by boxes: a cheap stand-in for the judge of P1 sec. 3.2 (Fig. 5c), who sees the image."""

from dataclasses import dataclass

import datasets
import numpy as np
import pandas as pd

from synreal.synbench.detect import EDGES, Detector
from synreal.synbench.measure import YES_NO
from synreal.synbench.scale import PERSON, box_area, central_objects, labels_of


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
