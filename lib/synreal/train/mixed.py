"""Pretraining and tuning in stages on real, synthetic and mixed images (P1 sec. 4.3 and App. B).

The data are arrays in memory, so an experiment on data is a choice of rows. A `Run` is a network, a seed and
stages of training one after another; what it learns is a function of these, is kept in the cache under their
hash, and is computed once however many studies share it. A few long ones ship with the book.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from synreal.data.pool import Pool
from synreal.errors import InputError
from synreal.models.load import save_weights
from synreal.paths import cache_dir, zoo_dir
from synreal.train.augment import flip_and_shift
from synreal.train.batch_augment import augmented, check_augmentations
from synreal.train.loop import Loss, device_of, fit
from synreal.train.networks import Network
from synreal.train.pretrain import normalise
from synreal.train.probe import linear_probe
from synreal.train.recipes import DinoRecipe, Recipe
from synreal.train.selfsupervised import dino
from synreal.train.tune import Tunable, tune

SHIPPED = "dino"  # folder of the zoo; all in it are runs of DINO
GREY = (0.5, 0.5, 0.5)  # mean and standard deviation of the images' preparation

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
        loss, count = _mix_loss(images, labels, real, stage.augment), int((~real).sum())
        recipe = replace(recipe, batch_size=recipe.batch_size // 2)
    else:
        loss, count = _label_loss(images, labels, stage.augment), len(labels)
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
    return torch.cat([module(normalise(batch, GREY, GREY).to(device)) for batch in batches])


def _label_loss(images: Tensor, labels: Tensor, augment: tuple[str, ...]) -> Loss:
    def loss(model: Any, rows: Tensor, generator: torch.Generator) -> Tensor:
        x = flip_and_shift(normalise(images[rows], GREY, GREY), generator)
        x, device = augmented(x, augment, generator), device_of(model)
        return F.cross_entropy(model(x.to(device)), labels[rows].to(device))

    return loss


def _mix_loss(images: Tensor, labels: Tensor, real: Tensor, augment: tuple[str, ...]) -> Loss:
    """The rows of a step are synthetic images; as many real ones are drawn beside them."""
    own, drawn = (_label_loss(images[kind], labels[kind], augment) for kind in (real, ~real))
    count = int(real.sum())

    def loss(model: Any, rows: Tensor, generator: torch.Generator) -> Tensor:
        beside = torch.randint(count, (len(rows),), generator=generator)
        return own(model, beside, generator) + drawn(model, rows, generator)

    return loss
