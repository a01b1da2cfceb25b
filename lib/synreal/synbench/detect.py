"""Boxes on images: one table, whatever found them."""

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
from synreal.models.yolo import (
    DetectionPredictor,
    load_detector_module,
    load_published,
    set_vocabulary,
)
from synreal.synbench.measure import decoded

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
