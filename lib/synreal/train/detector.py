"""The detector of the scenes world: a small YOLO11, trained by ultralytics' own trainer on true boxes."""

import zlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from torch import nn

from synreal.cache import atomic
from synreal.data.factors import Factors, draw_factors, stream
from synreal.data.scenes import compose_all, scene_arrays
from synreal.models.yolo import (
    CARD_FILE,
    DetectionTrainer,
    DetectorCard,
    build_detector,
    globals_restored,
    load_detector_module,
    save_detector,
)

# One class for all garments: where an object lies is what the measures ask, and telling ten garments apart
# costs a network of this size a quarter of the objects at the same training.
NAMES = ("garment", "person")
# YOLO11 with the strides 4 and 8 instead of 8, 16 and 32: scenes are 32 pixels wide.
ARCHITECTURE: dict[str, Any] = {
    "reg_max": 8,
    "backbone": [
        [-1, 1, "Conv", [16, 3, 1]],  # 32x32
        [-1, 1, "Conv", [32, 3, 2]],  # 1: 16x16
        [-1, 1, "C3k2", [48, False, 0.25]],
        [-1, 1, "Conv", [64, 3, 2]],  # 3: 8x8
        [-1, 1, "C3k2", [96, False, 0.5]],
        [-1, 1, "Conv", [128, 3, 2]],  # 5: 4x4
        [-1, 1, "C3k2", [128, True]],
        [-1, 1, "SPPF", [128, 3]],
    ],
    "head": [
        [-1, 1, "nn.Upsample", [None, 2, "nearest"]],
        [[-1, 4], 1, "Concat", [1]],
        [-1, 1, "C3k2", [96, False]],  # 10: 8x8
        [-1, 1, "Conv", [96, 3, 2]],
        [[-1, 7], 1, "Concat", [1]],
        [-1, 1, "C3k2", [128, False]],  # 13: 4x4
        [[10, 13], 1, "Detect", ["nc"]],
    ],
}


@dataclass(frozen=True)
class DetectorRecipe:
    """How the detector is trained; all else is ultralytics' default."""

    scenes: int = 20_000  # varied scenes of the train split
    validation: int = 2_000  # plain scenes of the val split, for the card
    epochs: int = 5
    batch_size: int = 64
    learning_rate: float = 3e-3  # AdamW, cosine
    image_size: int = 32
    seed: int = 0


def train_detector(out: Path, work: Path, recipe: DetectorRecipe = DetectorRecipe()) -> DetectorCard:
    """The card of the detector in `out`, with its mAP on validation scenes; trained unless it is there.

    `work` keeps the images and ultralytics' state after every epoch, so that an interrupted run goes on.
    """
    if (out / CARD_FILE).exists():
        return load_detector_module(out)[1]
    folders = {
        "train": write_boxes(work / f"train-{recipe.scenes}", *varied_scenes("train", recipe.scenes)),
        "val": write_boxes(work / f"val-{recipe.validation}", *scene_arrays("val", recipe.validation)),
    }
    card = DetectorCard(
        name="YOLO11-scenes", architecture=ARCHITECTURE, class_names=NAMES, image_size=recipe.image_size
    )
    with globals_restored():
        trainer: Any = _SceneTrainer(card, folders, _settings(work, recipe))
        trainer.train()
    found = {name: round(float(trainer.metrics[f"metrics/{name}(B)"]), 4) for name in ("mAP50", "mAP50-95")}
    training = {"data": "varied scenes of the train split"} | asdict(recipe)
    card = card.model_copy(update={"training": training, "expected": found})
    return save_detector(out, trainer.ema.ema, card)


def varied_scenes(split: str, count: int) -> tuple[np.ndarray, pd.DataFrame]:
    """As `scene_arrays`, but with persons and unusual scales in many scenes, which are rare in the world.

    A detector that saw them rarely would miss them, and the measures are about them.
    """
    return compose_all(((index, _varied(index, split)) for index in range(count)), split)


def _varied(index: int, split: str) -> Factors:
    factors, rng = draw_factors(index, split), stream(0, split, index, 3)
    person = ("none", "none", "none", "beside", "in front")[rng.integers(5)]
    scale = rng.uniform(0.28, 1.3) if rng.random() < 0.4 else factors.scale
    return replace(factors, person=person, scale=float(scale))


def write_boxes(folder: Path, images: np.ndarray, truth: pd.DataFrame) -> Path:
    """The folder, with scenes as ultralytics reads them: images/*.png and labels/*.txt."""
    if folder.exists():
        return folder
    with atomic(folder) as partial:
        for kind in ("images", "labels"):
            (partial / kind).mkdir(parents=True)
        for row, (image, text) in enumerate(zip(images, box_lines(truth), strict=True)):
            cv2.imwrite(str(partial / "images" / f"{row:06d}.png"), image[..., ::-1])  # OpenCV writes BGR
            (partial / "labels" / f"{row:06d}.txt").write_text(text)
    return folder


def box_lines(truth: pd.DataFrame) -> list[str]:
    """Per scene, one line for each object: class number, centre, width and height, in shares of the side."""
    kinds = {"": "garment", "second_": "garment", "person_": "person"}
    columns = (_lines(truth, prefix, NAMES.index(name)) for prefix, name in kinds.items())
    return ["\n".join(line for line in lines if line) for lines in zip(*columns, strict=True)]


def _lines(truth: pd.DataFrame, prefix: str, kind: int) -> list[str]:
    """One line per scene; empty where there is no such object, or none of it in the frame."""
    x0, y0, x1, y1 = (truth[f"{prefix}{edge}"].clip(0, 1) for edge in ("x0", "y0", "x1", "y1"))
    boxes = np.column_stack([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0])
    shown = boxes[:, 2:].min(axis=1) > 0  # NaN is not
    texts = (f"{kind} " + " ".join(f"{share:.5f}" for share in box) for box in boxes)
    return [text if there else "" for text, there in zip(texts, shown, strict=True)]


class _SceneTrainer(DetectionTrainer):
    """Ultralytics' trainer on our folders and network, without its search for fonts and weights."""

    def __init__(self, card: DetectorCard, folders: dict[str, Path], settings: dict[str, Any]) -> None:
        self.card, self.folders = card, folders
        super().__init__(overrides=settings)

    def get_dataset(self) -> dict[str, Any]:
        names = dict(enumerate(self.card.class_names))
        places = {split: str((folder / "images").resolve()) for split, folder in self.folders.items()}
        return places | {"names": names, "nc": len(names), "channels": 3}

    def get_model(self, cfg: Any = None, weights: nn.Module | None = None, verbose: bool = True) -> nn.Module:
        module = build_detector(self.card)
        if weights is not None:  # of an interrupted run
            module.load_state_dict(weights.state_dict())
        return module

    def final_eval(self) -> None:
        """Nothing: the last epoch has been validated, and its average is what we save."""


def _settings(work: Path, recipe: DetectorRecipe) -> dict[str, Any]:
    """For the trainer; runs of different recipes do not meet."""
    run = f"run-{zlib.crc32(repr((recipe, ARCHITECTURE)).encode()):08x}"
    settings = {
        "task": "detect", "data": "scenes", "model": "yolo11.yaml", "imgsz": recipe.image_size,
        "epochs": recipe.epochs, "batch": recipe.batch_size, "optimizer": "AdamW", "cos_lr": True,
        "lr0": recipe.learning_rate, "warmup_epochs": 1.0, "warmup_bias_lr": 0.0, "seed": recipe.seed,
        "project": str(work.resolve()), "name": run, "exist_ok": True, "cache": "ram", "plots": False,
        "val": False, "verbose": False,
        "amp": False,  # its check would fetch weights
        "mosaic": 0.0, "scale": 0.2,  # a scene is one object; four in a frame of 32 pixels teach little
    }  # fmt: skip
    last = work.resolve() / run / "weights" / "last.pt"
    return settings | ({"model": str(last), "resume": str(last)} if last.exists() else {})
