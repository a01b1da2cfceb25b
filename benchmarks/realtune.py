"""Images per second of RealTune, beside a plain PyTorch loop and timm's own loader, on one model and data.

    python benchmarks/realtune.py [scenes | photographs] [STEPS]

scenes: the network of ViT-Syn-12k on 32-pixel PNGs, batch 32, on any machine. photographs: ViT-B/16 with P1's
recipe (SGD, batch 256, bf16) on JPEGs of ImageNet's usual size; for a GPU, where it is the default. All three
train from one folder of images with as many worker processes as there are cores. Also: the minutes that P1's
10 epochs of 40,000 images would take (P1: an hour on an RTX 3090) and, on a GPU, the share of its bf16 peak.
"""

import os
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain, repeat
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from skimage.data import coffee
from timm.data import create_dataset, create_loader
from timm.optim import create_optimizer_v2
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from synreal.data.imageset import load_image_set
from synreal.data.scenes import scene_arrays
from synreal.models.card import Card, load_card
from synreal.models.load import build_module, load_classifier, save_checkpoint
from synreal.train.finetune import tune
from synreal.train.recipes import REALTUNE_VIT, SCENES_VIT, Recipe
from synreal.train.tuning import TuningData, tunable_classifier

PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "RTX 3090": 71e12}  # bf16, dense, of the data sheets
P1_IMAGES = 10 * 40_000
WARM_UP = 3  # steps that are not counted
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CORES = len(os.sched_getaffinity(0))

Batches = Iterable[tuple[Tensor, Tensor]]


def ours(checkpoint: Path, folder: Path, recipe: Recipe) -> list[float]:
    """The clock at every step of `tune`."""
    classifier = load_classifier(checkpoint)
    tunable = tunable_classifier(classifier, TuningData(load_image_set(folder), classifier.card), "full")
    clock: list[float] = []

    def loss(module: nn.Module, given: object, generator: torch.Generator) -> Tensor:
        clock.append(time.perf_counter())
        return tunable.loss(module, given, generator)

    tune(replace(tunable, loss=loss), "full", recipe)
    return clock


def plain(card: Card, folder: Path, recipe: Recipe) -> list[float]:
    """The clock at every step of a loop over torchvision's folder and transforms."""
    crop = [v2.RandomResizedCrop(card.image_size), v2.RandomHorizontalFlip(), v2.PILToTensor()]
    floats = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(card.mean, card.std)]
    images = ImageFolder(folder, v2.Compose(crop + floats))
    loader = DataLoader(
        images, recipe.batch_size, True, num_workers=CORES, pin_memory=DEVICE == "cuda", drop_last=True
    )
    module = build_module(card)
    optimizer = torch.optim.SGD(module.parameters(), recipe.learning_rate, momentum=0.9)
    return loop(module, optimizer, loader, recipe)


def with_timm(card: Card, folder: Path, recipe: Recipe) -> list[float]:
    """The clock at every step with the data set, loader and optimizer of timm's training script."""
    loader = create_loader(
        create_dataset("", root=str(folder), is_training=True),
        (3, card.image_size, card.image_size), recipe.batch_size,
        is_training=True, mean=card.mean, std=card.std, interpolation="bilinear", num_workers=CORES,
        use_prefetcher=DEVICE == "cuda", device=torch.device(DEVICE),
    )  # fmt: skip
    module = build_module(card)
    return loop(module, create_optimizer_v2(module, "momentum", lr=recipe.learning_rate), loader, recipe)


def loop(
    module: nn.Module, optimizer: torch.optim.Optimizer, batches: Batches, recipe: Recipe
) -> list[float]:
    """The clock at every step of the shortest loop there is."""
    module.to(DEVICE).train()
    clock = []
    for _, (pixels, labels) in zip(range(recipe.steps), forever(batches), strict=False):
        clock.append(time.perf_counter())
        with torch.autocast(DEVICE, torch.bfloat16, enabled=recipe.precision == "bf16"):
            value = F.cross_entropy(module(pixels.to(DEVICE)), labels.to(DEVICE))
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
        value.item()  # every loop that watches for divergence waits here
    return clock


def forever(batches: Batches) -> Iterator[tuple[Tensor, Tensor]]:
    return chain.from_iterable(repeat(batches))


def images_per_second(clock: list[float], recipe: Recipe) -> float:
    return (len(clock) - 1 - WARM_UP) * recipe.batch_size / (clock[-1] - clock[WARM_UP])


def write_scenes(folder: Path, count: int) -> Card:
    images, truth = scene_arrays("train", count)
    card = load_card("ViT-Syn-12k")
    for number, (pixels, label) in enumerate(zip(images, truth["label"], strict=True)):
        write(folder / card.class_names[label] / f"{number}.png", Image.fromarray(pixels))
    return card


def write_photographs(folder: Path, count: int) -> Card:
    card = load_card("ViT-Syn-1M")
    draw = np.random.default_rng(0)
    for number in range(count):
        left, top = draw.integers(0, 100, 2)
        photograph = Image.fromarray(coffee()[top : top + 300, left : left + 400]).resize((500, 375))
        write(folder / card.class_names[number % 100] / f"{number}.jpg", photograph)
    names = tuple(sorted(card.class_names[:100]))
    return card.model_copy(update={"class_names": names, "weights_env": None})


def write(file: Path, image: Image.Image) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    image.save(file, quality=90)


def share_of_peak(card: Card, rate: float) -> str:
    """The model's own arithmetic, forward and backward, against what the device could do."""
    name = torch.cuda.get_device_name()
    peak = next((peak for known, peak in PEAKS.items() if known in name), None)
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        build_module(card)(torch.empty(1, 3, card.image_size, card.image_size)).sum().backward()
    used = counter.get_total_flops() * rate
    return f"{used / 1e12:.0f} TFLOP/s on {name}" + (f", {used / peak:.0%} of its peak" if peak else "")


def main() -> None:
    world = sys.argv[1] if len(sys.argv) > 1 else ("photographs" if DEVICE == "cuda" else "scenes")
    base = replace(REALTUNE_VIT if world == "photographs" else SCENES_VIT, checkpoint_every=10**6)
    recipe = replace(base, steps=int(sys.argv[2]) if len(sys.argv) > 2 else 40 if DEVICE == "cuda" else 15)
    with tempfile.TemporaryDirectory() as place:
        folder, checkpoint = Path(place) / "images", Path(place) / "checkpoint"
        write_any = write_photographs if world == "photographs" else write_scenes
        card = write_any(folder, 20 * recipe.batch_size)
        save_checkpoint(checkpoint, build_module(card), card)
        clocks = {
            "tune": ours(checkpoint, folder, recipe),
            "plain PyTorch": plain(card, folder, recipe),
            "timm": with_timm(card, folder, recipe),
        }
    for name, clock in clocks.items():
        rate = images_per_second(clock, recipe)
        minutes = P1_IMAGES / rate / 60
        print(f"{name}: {rate:,.0f} images/s; 10 epochs of 40,000 images in {minutes:,.1f} minutes")
    if DEVICE == "cuda":
        print(share_of_peak(card, images_per_second(clocks["tune"], recipe)))


if __name__ == "__main__":
    main()
