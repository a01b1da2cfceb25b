"""One experiment: a network, the data of its stages, a seed."""

import hashlib
import json
from collections import OrderedDict
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from synreal.data.worlds import Pool
from synreal.errors import InputError
from synreal.models.load import save_weights
from synreal.paths import cache_dir, zoo_dir
from synreal.train.dino import dino
from synreal.train.finetune import Tunable, linear_probe, tune
from synreal.train.loop import device_of, fit
from synreal.train.losses import (
    MEAN,
    STD,
    check_augmentations,
    flip_and_shift,
    label_loss,
    mix_loss,
    normalise,
)
from synreal.train.recipes import DinoRecipe, Network, Recipe

WIDTHS = (16, 32, 64, 128)
HEAD = "head"  # its parameters' names begin so
BATCH = 128  # images that are predicted at once


def small_classifier(classes: int, seed: int) -> nn.Module:
    """An untrained network of about 0.1 M parameters for images of 16 pixels a side or more."""
    layers: list[nn.Module] = []
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        for before, width in zip((3, *WIDTHS), WIDTHS, strict=False):
            layers += [nn.Conv2d(before, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        head = nn.Linear(WIDTHS[-1], classes)
    module = nn.Sequential(OrderedDict(trunk=nn.Sequential(*layers), head=head))
    return module.to(memory_format=torch.channels_last)


class Batch:
    """The loss of `train.loop.fit` on uint8 images [N, H, W, 3] and their labels [N]: cross-entropy, with
    mirrored and shifted images."""

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        if len(images) != len(labels) or not len(images):
            raise InputError(
                f"found {len(images)} images and {len(labels)} labels, expected a label for each"
            )
        self.images, self.labels = torch.tensor(images), torch.tensor(labels).long()

    def __call__(self, model: Any, rows: Tensor, generator: torch.Generator) -> Tensor:
        device = device_of(model)
        pixels = flip_and_shift(_pixels(self.images[rows]), generator)
        return F.cross_entropy(model(pixels.to(device)), self.labels[rows].to(device))


def train_small(images: np.ndarray, labels: np.ndarray, classes: int, recipe: Recipe) -> nn.Module:
    """`small_classifier` trained from scratch; the recipe's seed sets its first weights too."""
    module = small_classifier(classes, recipe.seed)
    fit(module, Batch(images, labels), len(images), recipe)
    return module


def predict_small(module: nn.Module, images: np.ndarray) -> np.ndarray:
    """Logits, float32 [N, classes], of uint8 [N, H, W, 3] images."""
    with torch.inference_mode():
        parts = [module(_pixels(part)) for part in torch.tensor(images).split(BATCH)]
    return torch.cat(parts).numpy()


def _pixels(images: Tensor) -> Tensor:
    return (images.permute(0, 3, 1, 2).float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


# Pretraining and tuning in stages on real, synthetic and mixed images (P1 sec. 4.3 and App. B).
#
# The data are arrays in memory, so an experiment on data is a choice of rows. A `Run` is a network, a seed
# and stages of training one after another; what it learns is a function of these, is kept in the cache under
# their hash, and is computed once however many studies share it. A few long ones ship with the book.


SHIPPED = "dino"  # folder of the zoo; all in it are runs of DINO

Objective = Literal["labels", "mixloss", "dino", "probe"]


@dataclass(frozen=True, eq=False)
class Stage:
    """One training: on which rows of a pool (a row that occurs twice is seen twice as often), and how.

    objective: "labels" is cross-entropy, on a mixture P1's MixData; "mixloss" adds up the losses of half a
    batch of real and half a batch of synthetic images (He et al. 2023, P1 Table 6); "dino" uses no labels;
    "probe" fits the head alone, exactly, and takes no recipe. augment: names of `AUGMENTATIONS`.
    """

    pool: Pool
    rows: np.ndarray
    recipe: Recipe | None
    objective: Objective = "labels"
    augment: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_augmentations(self.augment)
        if (self.recipe is None) != (self.objective == "probe"):
            raise InputError(f"{self.objective}: found recipe {self.recipe}; only a probe takes none")
        if (self.objective == "dino") != isinstance(self.recipe, DinoRecipe):
            raise InputError(f"{self.objective}: found recipe {self.recipe}; DINO, and it alone, has its own")
        both = self.pool.real[self.rows].any() and not self.pool.real[self.rows].all()
        if self.objective == "mixloss" and not both:
            raise InputError("mixloss: the rows are of one kind only; choose real and synthetic images")

    def describe(self, exact: bool = True) -> dict[str, Any]:
        """What the training depends on, as plain values; images by a hash, exact to the last pixel or not."""
        images = self.pool.digests if exact else self.pool.origins
        seen = hashlib.sha256(images[self.rows].tobytes()).hexdigest()
        how = {"objective": self.objective, "augment": list(self.augment)}
        recipe = self.recipe and asdict(self.recipe)
        return {"images": seen, "classes": len(self.pool.class_names), "recipe": recipe} | how


@dataclass(frozen=True, eq=False)
class Run:
    """A network, trained in stages; the seed is that of its first weights, of order and of augmentation."""

    network: Network
    stages: tuple[Stage, ...]
    seed: int = 0

    @property
    def key(self) -> str:
        """16 hexadecimal digits of all that the result depends on."""
        return self._hash(exact=True)

    def _hash(self, exact: bool) -> str:
        network = {"architecture": self.network.architecture, "args": self.network.args}
        stages = [stage.describe(exact) for stage in self.stages]
        text = json.dumps([network, self.seed, stages], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def folder(self) -> Path:
        """Where its weights and predictions are kept."""
        return cache_dir() / "mixed" / self.key

    @property
    def shipped(self) -> Path:
        """Where the zoo keeps its weights, if they ship; the same on every machine."""
        return zoo_dir() / SHIPPED / f"{self._hash(exact=False)}.safetensors"

    @property
    def weights(self) -> Path:
        """The file of its weights, which need not exist: in the zoo, or else in the cache."""
        return self.shipped if self.shipped.exists() else self.folder / "weights.safetensors"

    @property
    def before(self) -> "Run":
        """The run without its last stage."""
        return replace(self, stages=self.stages[:-1])


def trained(run: Run) -> nn.Module:
    """The network after the last stage, in eval mode; trained only where neither zoo nor cache hold it."""
    classes = len(run.stages[-1].pool.class_names)
    path = run.weights
    if path.exists():
        module = run.network.create(classes, run.seed)
        module.load_state_dict(load_file(path))
        return module.eval()
    module = trained(run.before) if len(run.stages) > 1 else run.network.create(classes, run.seed)
    _new_head(module, run)
    _train(module, run)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_weights(path, module)
    (run.folder / "state.pt").unlink(missing_ok=True)  # of training, and now of no use
    return module


def _new_head(module: nn.Module, run: Run) -> None:
    """A head for other classes, and after training without labels, starts anew."""
    if len(run.stages) < 2:
        return
    last, earlier = run.stages[-1], run.stages[-2]
    if earlier.objective == "dino" or earlier.pool.class_names != last.pool.class_names:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(run.seed)
            module.reset_classifier(len(last.pool.class_names))  # type: ignore[operator]


def _train(module: nn.Module, run: Run) -> None:
    stage = run.stages[-1]
    if stage.recipe is None:
        _probe(module, stage)
        return
    recipe = replace(stage.recipe, seed=run.seed)
    images, labels = (torch.from_numpy(part[stage.rows]) for part in (stage.pool.images, stage.pool.labels))
    if isinstance(recipe, DinoRecipe):
        dino(module, images, recipe, run.folder)
        return
    if stage.objective == "mixloss":
        real = torch.from_numpy(stage.pool.real[stage.rows])
        photographs, generated = ((images[kind], labels[kind]) for kind in (real, ~real))
        loss, count = mix_loss(photographs, generated, stage.augment), int((~real).sum())
        recipe = replace(recipe, batch_size=recipe.batch_size // 2)
    else:
        loss, count = label_loss(images, labels, stage.augment), len(labels)
    if len(run.stages) == 1:
        fit(module, loss, count, recipe, run.folder)
    else:
        tune(Tunable(module, loss, count, _head(module)), "full", recipe, run.folder)


def _probe(module: nn.Module, stage: Stage) -> None:
    """The best linear head for features that stay as they are."""
    classes = len(stage.pool.class_names)
    module.eval().reset_classifier(0)  # type: ignore[operator]
    features = outputs(module, stage.pool.images[stage.rows])
    labels = torch.from_numpy(stage.pool.labels[stage.rows]).to(features.device)
    module.reset_classifier(classes)  # type: ignore[operator]
    setattr(module, _head(module), linear_probe(features.clone(), labels, classes))


def _head(module: nn.Module) -> str:
    return module.pretrained_cfg["classifier"]  # type: ignore[index,return-value]


@torch.inference_mode()
def outputs(module: nn.Module, images: np.ndarray, batch_size: int = 128) -> Tensor:
    """What the network makes of uint8 [N, H, W, 3], a batch at a time."""
    device = device_of(module)
    batches = (
        torch.tensor(images[start : start + batch_size]) for start in range(0, len(images), batch_size)
    )
    return torch.cat([module(normalise(batch, MEAN, STD).to(device)) for batch in batches])
