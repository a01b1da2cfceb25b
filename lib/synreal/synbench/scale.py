"""Object scale: the share of the image that the central object takes (P1 sec. 3.2, Fig. 5a)."""

from collections.abc import Sequence
from dataclasses import dataclass

import datasets
import numpy as np
import pandas as pd

from synreal.synbench.detect import Detector

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
