"""Ultralytics detectors (AGPL-3.0): loaded without running code from a file, and without the network.

Our own are kept as tensors beside a card (`save_detector`, `load_detector_module`). Published ones are
pickles of whole modules: they are read through ultralytics' own list of known classes, and nothing else in
them is built. What ultralytics reads from the environment is set here, before its import; other modules
import what they need of it from here.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors.torch import save_file
from torch import nn

from synreal.cache import file_hash
from synreal.errors import InputError
from synreal.models.card import Card
from synreal.models.clip import load_tokenizer, zero_shot_head
from synreal.models.load import load_module, read_weights
from synreal.paths import cache_dir
from synreal.strict_yaml import dump_yaml, read_yaml

# No network, no installing, no analytics, no greeting; settings lie with our cache; restricted unpickling.
os.environ |= {"YOLO_OFFLINE": "1", "YOLO_AUTOINSTALL": "false", "ULTRALYTICS_SAFE_LOAD": "1"}
os.environ.setdefault("YOLO_VERBOSE", "false")
os.environ.setdefault("YOLO_CONFIG_DIR", str(cache_dir()))


@contextmanager
def _process_left_alone() -> Iterator[None]:
    """Ultralytics replaces these for the whole process, which would change how others read and print."""
    opened, saved, printing = Image.open, torch.save, np.get_printoptions()
    yield
    Image.open, torch.save = opened, saved
    np.set_printoptions(**printing)
    torch.set_printoptions(profile="default")


with _process_left_alone():
    from ultralytics.models.yolo.detect import DetectionPredictor, DetectionTrainer
    from ultralytics.nn.tasks import DetectionModel, WorldModel, torch_safe_load
    from ultralytics.utils import SETTINGS

__all__ = [
    "DetectionPredictor",
    "DetectionTrainer",
    "DetectorCard",
    "build_detector",
    "globals_restored",
    "load_detector_module",
    "load_published",
    "save_detector",
    "set_vocabulary",
]

if SETTINGS["sync"]:
    SETTINGS.update(sync=False)

WEIGHTS_ENV = "SYNREAL_DETECTOR_DIR"  # folder of published weights
WEIGHTS_FILE = "model.safetensors"
CARD_FILE = "detector.yaml"
PUBLISHED = {  # what P1 takes
    "yolov8s-worldv2.pt": "https://github.com/ultralytics/assets/releases (YOLO-World, for object scale)",
    "yolov5su.pt": "https://github.com/ultralytics/assets/releases (YOLOv5, for persons)",
}
# The text tower that YOLO-World was trained with: OpenAI's CLIP, in open_clip's format.
TEXT_ENCODER = Card(
    name="CLIP-ViT-B-32",
    role="text encoder of YOLO-World",
    library="open_clip",
    architecture="ViT-B-32",
    activation="quick_gelu",
    weights="clip-vit-b-32.safetensors",
    weights_env=WEIGHTS_ENV,
    published_at="https://huggingface.co/timm/vit_base_patch32_clip_224.openai (open_clip_model.safetensors)",
    image_size=224,
    resize=224,
    crop="centre",
    interpolation="bicubic",
    mean=(0.48145466, 0.4578275, 0.40821073),
    std=(0.26862954, 0.26130258, 0.27577711),
    head="zero-shot",
    class_names=("person", "object"),
    templates=("{}",),
    license="MIT",
)


class DetectorCard(BaseModel):
    """What a detector of ours is. Immutable; unknown fields and wrong types are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    architecture: dict[str, Any]  # ultralytics' model YAML; nc follows from class_names
    class_names: tuple[str, ...] = Field(min_length=1)
    image_size: int = Field(gt=0)  # pixels; images are scaled into a square of this side, keeping proportions
    sha256: str = ""  # of the weights file
    training: dict[str, Any] = {}
    expected: dict[str, float] = {}  # metric on validation images: value
    license: str = "AGPL-3.0"  # of ultralytics, whose network it is


def build_detector(card: DetectorCard) -> DetectionModel:
    """The card's network, untrained. Raises InputError when ultralytics cannot build it."""
    try:
        module = DetectionModel(card.architecture | {"nc": len(card.class_names)}, verbose=False)
    except (KeyError, TypeError, ValueError, IndexError, RuntimeError) as error:
        raise InputError(f"{card.name}: ultralytics cannot build this architecture: {error!r}") from error
    module.names = dict(enumerate(card.class_names))
    return module


def save_detector(folder: str | Path, module: nn.Module, card: DetectorCard) -> DetectorCard:
    """Writes the weights in half precision, then the card; returns the card as written, with its sha256."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
    half = {name: t.half() if t.is_floating_point() else t for name, t in tensors.items()}
    if broken := [name for name, tensor in half.items() if not torch.isfinite(tensor).all()]:
        raise InputError(f"weights {broken[:3]}: not all finite in float16; the training diverged")
    save_file(half, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    card = card.model_copy(update={"sha256": file_hash(folder / WEIGHTS_FILE)})
    text = dump_yaml(card.model_dump(mode="json"), flow=None)
    (folder / CARD_FILE).write_text(text, encoding="utf-8")
    return card


def load_detector_module(folder: str | Path) -> tuple[DetectionModel, DetectorCard]:
    """What `save_detector` wrote: the network in float32 and eval mode, and its card.

    Raises InputError for a missing file, a wrong field, a wrong hash, and weights that do not fit.
    """
    folder = Path(folder)
    for name in (CARD_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise InputError(f"{folder}: no {name}; expected a folder written by save_detector")
    card, weights = _read_card(folder / CARD_FILE), folder / WEIGHTS_FILE
    if (found := file_hash(weights)) != card.sha256:
        raise InputError(f"{weights}: sha256 is {found}, {CARD_FILE} says {card.sha256}; fetch both again")
    module = build_detector(card)
    try:
        module.load_state_dict(read_weights(weights), strict=True)
    except RuntimeError as error:
        raise InputError(f"{weights}: does not fit the architecture in {CARD_FILE}: {error}") from error
    return module.eval(), card


def load_published(name: str) -> nn.Module:
    """The published detector of this file name in the folder that SYNREAL_DETECTOR_DIR names, in eval mode.

    The file is a pickle. It is read with `weights_only=True`; only classes of torch.nn and ultralytics, plain
    values and paths may be in it. Raises InputError when it is missing, damaged or holds anything else.
    """
    file = _published_file(name)
    try:
        with globals_restored():
            content, _ = torch_safe_load(file, safe_only=True)
    except (TypeError, ImportError, AttributeError, RuntimeError, UnpicklingError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"{file}: refused. Expected a detector saved by ultralytics 8, holding its own classes only, "
            f"such as {' or '.join(PUBLISHED)}; the first YOLOv5 files are of another format. ({reason})"
        ) from error
    module = content.get("ema") or content.get("model")
    if not isinstance(module, DetectionModel):
        raise InputError(f"{file}: holds {type(module).__name__}, expected a detection model of ultralytics")
    return module.float().eval()


@contextmanager
def globals_restored() -> Iterator[None]:
    """Ultralytics allows its classes to every later `torch.load` of the process; here, to those inside."""
    before = torch.serialization.get_safe_globals()
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def set_vocabulary(module: nn.Module, class_names: Sequence[str], encoder: Card = TEXT_ENCODER) -> None:
    """Make a YOLO-World network look for these classes, in place.

    A class is asked for by its bare name, as ultralytics does, in the CLIP embedding of `encoder`.
    Raises InputError when the network is no YOLO-World, and as `load_module` for the encoder.
    """
    if not isinstance(module, WorldModel):
        raise InputError(f"set_vocabulary: found {type(module).__name__}, expected a YOLO-World network")
    if not class_names or len(set(class_names)) < len(class_names):
        raise InputError(
            f"class_names: expected different names, at least one; found {list(class_names)[:5]}"
        )
    clip = load_module(encoder)
    # get_text_pe would install OpenAI's `clip` from the network; this is what it computes.
    module.txt_feats = zero_shot_head(clip, load_tokenizer(encoder, clip), class_names, ("{}",))[None]
    head: Any = module.model[-1]  # type: ignore[index]
    head.nc = len(class_names)
    module.names = dict(enumerate(class_names))


def _published_file(name: str) -> Path:
    source = f" It is published at {PUBLISHED[name]}." if name in PUBLISHED else ""
    if WEIGHTS_ENV not in os.environ:
        raise InputError(
            f"{name}: set the environment variable {WEIGHTS_ENV} to the folder that holds it.{source}"
        )
    file = Path(os.environ[WEIGHTS_ENV]) / name
    if not file.is_file():
        raise InputError(f"{name}: not in {file.parent} (from {WEIGHTS_ENV}); put it there.{source}")
    return file


def _read_card(file: Path) -> DetectorCard:
    content = read_yaml(file, "a detector's card")
    try:
        return DetectorCard.model_validate(content)
    except ValidationError as error:
        raise InputError(f"{file}: not a detector's card: {error}") from error
