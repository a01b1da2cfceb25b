"""Scenes per second that a detector looks at: in batches, and image by image as ultralytics is used.

    python benchmarks/detect.py [SCENES]

The network is the scenes' own, untrained: its speed does not depend on its weights, and both ways find the
same boxes with it, which is checked. The threshold is set so that it finds about one box per image, as the
trained one does. Both use all cores; the way image by image is measured on a tenth of the scenes.
"""

import sys
from collections.abc import Callable

import datasets
import numpy as np
import pandas as pd
import torch
from timing import rate

from synreal.data.scenes import scene_set
from synreal.models.yolo import DetectorCard, build_detector
from synreal.synbench.detect import EDGES, YoloDetector
from synreal.train.detector import ARCHITECTURE, NAMES


def network() -> torch.nn.Module:
    card = DetectorCard(name="scenes", architecture=ARCHITECTURE, class_names=NAMES, image_size=32)
    module = build_detector(card)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.ndim > 1 and "dfl" not in name:
                parameter.normal_(std=1.5 * parameter[0].numel() ** -0.5, generator=generator)
    return module.eval()


def usual_threshold(module: torch.nn.Module, images: datasets.Dataset) -> float:
    """The confidence that as many boxes reach as there are images."""
    boxes = YoloDetector(module, 32, confidence=0.0).detect(images)
    return float(boxes["confidence"].nlargest(len(images)).min())


def image_by_image(detector: YoloDetector) -> Callable[[datasets.Dataset], pd.DataFrame]:
    """Ultralytics' predictor on one image after the other."""
    predictor = detector._predictor()

    def detect(images: datasets.Dataset) -> pd.DataFrame:
        boxes = [predictor(picture)[0].boxes.xyxyn.numpy() for picture in images["image"]]
        return pd.DataFrame(np.concatenate(boxes), columns=list(EDGES))

    return detect


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    images, module = scene_set("val", count), network()
    few = images.select(range(count // 10))
    detector = YoloDetector(module, 32, confidence=usual_threshold(module, few))
    single = image_by_image(detector)
    np.testing.assert_allclose(detector.detect(few)[list(EDGES)], single(few), atol=1e-3)
    batched, alone = rate(detector.detect, images), rate(single, few)
    print(
        f"in batches of {detector.batch_size}: {batched:,.0f} images per second ({count} scenes, best of 3)"
    )
    print(f"image by image: {alone:,.0f} images per second; batches are {batched / alone:.1f} times as fast")


if __name__ == "__main__":
    main()
