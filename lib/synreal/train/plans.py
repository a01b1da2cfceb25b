"""The classifiers of the zoo: P1's Table 1 in miniature, each a plan of what to train on what."""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import open_clip
import timm
import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import CLIPTokenizer

from synreal.data.captions import OPENINGS, captions
from synreal.data.factors import draw_factors
from synreal.data.imageset import to_arrays
from synreal.data.scenes import scene_arrays
from synreal.data.sprites import CLASS_NAMES
from synreal.models import conv_stem
from synreal.models.card import Card, Expected, load_card
from synreal.models.load import WEIGHTS_FILE, load_classifier, save_checkpoint
from synreal.train.pretrain import CLIP, VIT, train_classifier, train_clip

EVALUATED = 4_000  # validation scenes of a card's expected accuracy; the test split plays no part here
TOKENIZER = "../generator/tokenizer"  # seen from a checkpoint in the zoo
CONTEXT = 24  # tokens of a caption


@dataclass(frozen=True)
class Plan:
    """`images` of `source` for one model. Real ViTs see the train split, real CLIPs the upstream pool."""

    kind: Literal["ViT", "CLIP"]
    source: Literal["Real", "Syn"]
    images: int

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.source}-{self.images / 1000:g}k"

    @property
    def split(self) -> str:
        """Of the scenes that a real model sees."""
        return "train" if self.kind == "ViT" else "upstream"


def train_plan(plan: Plan, out: Path, zoo: Path, work: Path, synthetic: Dataset | None = None) -> Card:
    """The card of the checkpoint of `plan` in folder `out`, which is trained unless it is there already.

    `zoo`: where the generator lies, whose tokenizer CLIP shares; `work`: where interrupted training goes on;
    `synthetic`: the generated image set, for plans whose source is Syn.
    """
    if (out / plan.name / "card.yaml").exists():
        return load_card(out / plan.name)
    images, labels, texts = _data(plan, synthetic)
    torch.manual_seed(0)
    start = time.time()
    if plan.kind == "ViT":
        module, recipe = timm.create_model(conv_stem.NAME, num_classes=len(CLASS_NAMES)), VIT
        train_classifier(module, images, labels, recipe, work / plan.name)
    else:
        words = CLIPTokenizer.from_pretrained(zoo / "generator" / "tokenizer", local_files_only=True)
        module, recipe = open_clip.CLIP(**_clip_args(len(words))), CLIP
        padded = {"padding": "max_length", "truncation": True, "max_length": CONTEXT}
        tokens = words(texts, return_tensors="pt", **padded).input_ids
        train_clip(module, images, tokens, recipe, work / plan.name)
    cost = {
        "steps": recipe.steps,
        "batch_size": recipe.batch_size,
        "wall_seconds": round(time.time() - start),
    }
    return _save(plan, module, out, zoo, cost)


def _data(plan: Plan, synthetic: Dataset | None) -> tuple[Tensor, Tensor, list[str]]:
    """Images uint8 [N, 32, 32, 3], labels int64 [N], captions."""
    if synthetic is not None and plan.source == "Syn":
        chosen = synthetic.select(range(plan.images))
        images, labels = to_arrays(chosen)
        return torch.from_numpy(images), torch.from_numpy(labels), list(chosen["prompt"])
    images, truth = scene_arrays(plan.split, plan.images)
    texts = captions([draw_factors(i, plan.split) for i in range(plan.images)], plan.split)
    return torch.from_numpy(images), torch.tensor(truth["label"].to_numpy()), texts


def _clip_args(vocabulary: int) -> dict:
    vision = {"timm_model_name": conv_stem.NAME, "timm_pool": "", "timm_proj": "linear"}
    return {
        "embed_dim": 128,
        "vision_cfg": {"image_size": 32} | vision,
        "text_cfg": {
            "context_length": CONTEXT, "vocab_size": vocabulary, "width": 96, "heads": 4, "layers": 2,
        },
    }  # fmt: skip


def _save(plan: Plan, module: nn.Module, out: Path, zoo: Path, cost: dict) -> Card:
    card = scenes_card(
        name=plan.name,
        role=plan.name,
        activation="gelu",
        training={
            "source": "real" if plan.source == "Real" else "synthetic",
            "data": f"scenes/{plan.split}" if plan.source == "Real" else "zoo/generator",
            "images": plan.images,
            "chosen_on": "scenes/val",
        }
        | cost,
        **_architecture(plan, module, os.path.relpath(zoo / "generator" / "tokenizer", out / plan.name)),
    )
    return save_measured(out / plan.name, module, card)


def scenes_card(**fields: Any) -> Card:
    """A card with what all classifiers of scenes share: the classes, and how images are prepared."""
    return Card(
        weights=WEIGHTS_FILE,
        image_size=32,
        resize=32,
        crop="none",
        interpolation="bilinear",
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        class_names=CLASS_NAMES,
        license="MIT",
        **fields,
    )


def save_measured(folder: Path, module: nn.Module, card: Card) -> Card:
    """Save in half precision, measure what was saved on validation scenes, and write that on the card."""
    save_checkpoint(folder, module, card, half=True)
    value = validation_accuracy(folder)
    expected = Expected(image_set="scenes/val", metric="accuracy", value=value, tolerance=0.005, n=EVALUATED)
    return save_checkpoint(folder, module, card.model_copy(update={"expected": (expected,)}), half=True)


def _architecture(plan: Plan, module: nn.Module, tokenizer: str) -> dict:
    if plan.kind == "ViT":
        return {"library": "timm", "architecture": conv_stem.NAME, "head": "linear"}
    return {
        "library": "open_clip",
        "architecture": "CLIP",
        "architecture_args": _clip_args(int(module.vocab_size)),  # type: ignore[arg-type]
        "head": "zero-shot",
        "templates": OPENINGS,
        "tokenizer": tokenizer,
    }


def validation_accuracy(checkpoint: Path) -> float:
    """Top-1 accuracy of a saved checkpoint on the first validation scenes."""
    images, truth = scene_arrays("val", EVALUATED)
    predicted = load_classifier(checkpoint).logits(images).argmax(1).numpy()
    return round(float((predicted == truth["label"].to_numpy()).mean()), 4)
