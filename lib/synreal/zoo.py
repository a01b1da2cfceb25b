"""The shipped models, trained again from nothing: `make zoo`."""

import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import open_clip
import timm
import torch
from datasets import Dataset
from joblib import delayed
from torch import Tensor, nn
from transformers import CLIPTokenizer

from synreal.cache import compute, side_by_side
from synreal.data.decode import from_arrays, to_arrays
from synreal.data.factors import OPENINGS, captions, class_caption, draw_factors
from synreal.data.imageset import class_names
from synreal.data.scenes import scene_arrays
from synreal.data.sprites import CLASS_NAMES
from synreal.data.worlds import open_pool
from synreal.generate.backends import StableDiffusion, load_pipeline
from synreal.generate.cascade import new_cascade, save_cascade
from synreal.generate.pipeline import epsilon_pipeline, learn_tokenizer, new_pipeline, save_epsilon
from synreal.generate.sample import open_generator, sample_set
from synreal.generate.singdiffusion import new_initial_step, save_initial_step
from synreal.models import small
from synreal.models.card import Card, Expected, load_card
from synreal.models.load import (
    WEIGHTS_FILE,
    build_module,
    load_classifier,
    load_module,
    save_checkpoint,
    save_weights,
)
from synreal.paths import cache_dir, zoo_dir
from synreal.text.corpora import austen
from synreal.text.gpt2 import encode, gpt2_config, learn_text_tokenizer, new_gpt2, training_rows
from synreal.text.sample import Sampling, first_words, sample_texts
from synreal.text.train import next_token_loss
from synreal.train import experiment
from synreal.train.detector import train_detector
from synreal.train.generator import (
    EPSILON,
    train_autoencoder,
    train_denoiser,
    train_initial_step,
    train_pixels,
    train_upscaler,
)
from synreal.train.grid import dino_pretrainings
from synreal.train.loop import fit
from synreal.train.losses import CLIP, VIT, train_classifier, train_clip
from synreal.train.recipes import TINY, Recipe

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
        module, recipe = timm.create_model(small.VIT_32, num_classes=len(CLASS_NAMES)), VIT
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
    vision = {"timm_model_name": small.VIT_32, "timm_pool": "", "timm_proj": "linear"}
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
        return {"library": "timm", "architecture": small.VIT_32, "head": "linear"}
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


# The judge of the scenes world, in the role of P1's ConvNeXt-B (sec. 3.1): it says what an image shows.
#
# A small residual network, trained on many more scenes than any classifier of the zoo. They show garments of
# the train split, so it never saw one that it judges: real scenes show those of the test split, and the
# generator learned from those of the upstream split. Do not let it judge scenes of the train split.


SCENES = 60_000
JUDGE = Recipe(steps=1900, batch_size=128, learning_rate=2e-3, weight_decay=0.05)
CARD = scenes_card(
    name="Judge",
    role="judge",
    library="timm",
    # ResNet-18 made for 32 pixels: a stem of three small convolutions, and its first two stages (8x8, 4x4)
    architecture="resnet18",
    architecture_args={
        "stem_type": "deep", "stem_width": 24, "channels": [64, 128, 128, 128], "layers": [2, 2, 0, 0],
    },
    activation="relu",
    head="linear",
)  # fmt: skip


def train_judge(out: Path, work: Path) -> Card:
    """The card of the judge in folder `out`, trained unless it is there already.

    `work`: where interrupted training goes on. The accuracy expected is measured on validation scenes.
    """
    folder = out / CARD.name
    if (folder / "card.yaml").exists():
        return load_card(folder)
    images, truth = scene_arrays("train", SCENES)
    labels = torch.tensor(truth["label"].to_numpy())
    torch.manual_seed(0)
    start = time.time()
    module = build_module(CARD).to(memory_format=torch.channels_last)
    train_classifier(module, torch.from_numpy(images), labels, JUDGE, work / CARD.name)
    cost = {"steps": JUDGE.steps, "batch_size": JUDGE.batch_size, "wall_seconds": round(time.time() - start)}
    data = {"source": "real", "data": "scenes/train", "images": SCENES, "chosen_on": "scenes/val"}
    return save_measured(folder, module, CARD.model_copy(update={"training": data | cost}))


# The other generators of the zoo: they differ from the first as those of P1's study F3 differ (sec. 3).
#
# The first predicts velocity, as SD v2 does. `generator-epsilon` predicts noise, as SD v1.5 does;
# `generator-sing` puts SingDiffusion's initial step before it; `generator-cascade` draws pixels and enlarges
# them, as DeepFloyd IF does. A finished one is skipped, an interrupted one goes on.


Pool = Callable[[], tuple[Tensor, list[str]]]  # images uint8 [N, 32, 32, 3] and their captions


def train_epsilon_and_sing(zoo: Path, work: Path, pool: Pool) -> None:
    """The noise-predicting generator, from the weights of the first, and the initial step before it."""
    _make(zoo / "generator-epsilon", lambda out: _epsilon(zoo, work, pool, out))
    _make(zoo / "generator-sing", lambda out: _sing(zoo, work, pool, out))


def train_cascade(zoo: Path, work: Path, pool: Pool) -> None:
    """The cascade in pixels, with the tokenizer of the first generator."""
    _make(zoo / "generator-cascade", lambda out: _cascade(zoo, work, pool, out))


def _epsilon(zoo: Path, work: Path, pool: Pool, out: Path) -> None:
    pipeline = epsilon_pipeline(load_pipeline(zoo / "generator", "cpu"))
    train_denoiser(pipeline, *pool(), recipe=EPSILON, folder=work / "epsilon")
    save_epsilon(pipeline, out, "../generator")


def _sing(zoo: Path, work: Path, pool: Pool, out: Path) -> None:
    generator = open_generator(zoo / "generator-epsilon")
    assert isinstance(generator, StableDiffusion)  # as `save_epsilon` wrote it
    pipeline = generator.pipeline("cpu")
    initial = new_initial_step(pipeline)
    train_initial_step(initial, pipeline, *pool(), folder=work / "initial-step")
    save_initial_step(initial, out, "../generator-epsilon")


def _cascade(zoo: Path, work: Path, pool: Pool, out: Path) -> None:
    images, texts = pool()
    base, upscaler = new_cascade(load_pipeline(zoo / "generator", "cpu").tokenizer)
    train_pixels(base, images, texts, folder=work / "pixels")
    train_upscaler(upscaler, base, images, texts, folder=work / "upscaler")
    save_cascade(base, upscaler, out)


def _make(folder: Path, write: Callable[[Path], None]) -> None:
    """The folder, which appears under its name only when it is complete."""
    if folder.exists():
        return
    partial = folder.with_name(f".{folder.name}")  # beside it, so that paths to its neighbours hold
    partial.mkdir(exist_ok=True)
    write(partial)
    partial.replace(folder)


# `make zoo`: train everything that ships in `zoo/` from nothing.
#
# Stages: the generator, on the captioned upstream pool; its synthetic images, the first of which ship; the
# classifiers; the other generators, the judge and the detector; networks that learn without labels. A
# finished stage is skipped and an interrupted one goes on, so the command may be stopped at any moment. All
# but the first generator are so small that one thread each, side by side, is the fastest way to train them.


POOL = 40_000  # captioned real scenes that the generator is trained on
SYNTHETIC = 24_000
SHIPPED = 4_000  # of them, for the chapters that train on synthetic images
PLANS = (
    Plan("ViT", "Syn", 24_000),
    Plan("CLIP", "Syn", 24_000),
    Plan("ViT", "Syn", 12_000),
    Plan("ViT", "Real", 12_000),
    Plan("CLIP", "Real", 24_000),
)
DINO, DINO_SCENES, DINO_SEEDS = TINY["ResNet"], 3_000, 3
# Sizes for the real model that equals a synthetic one.
SMALL = (1_000, 1_500, 2_000, 3_000, 4_000, 6_000, 8_000)


def main() -> None:
    """Train what is missing and print what each stage took."""
    zoo, work, workers = zoo_dir(), cache_dir() / "zoo", os.cpu_count() or 1
    generator = _timed("generator", train_generator, zoo, work)
    synthetic = _timed("synthetic images", synthetic_images, generator, work / "synthetic", workers)
    ship_synthetic(synthetic.select(range(SHIPPED)), zoo / "synthetic")
    jobs = [delayed(train_plan)(plan, zoo, zoo, work, synthetic) for plan in PLANS]
    _timed("classifiers", side_by_side(workers), jobs)
    jobs = [delayed(match_accuracy)(kind, zoo, work) for kind in ("ViT", "CLIP")]
    _timed("equal accuracy", side_by_side(workers), jobs)
    jobs = [
        delayed(train_epsilon_and_sing)(zoo, work, captioned_pool),
        delayed(train_cascade)(zoo, work, captioned_pool),
        delayed(train_judge)(zoo, work),
        delayed(train_detector)(zoo / "detector", work / "detector"),
    ]
    _timed("other generators, judge, detector", side_by_side(workers), jobs)
    _timed("DINO", ship_dino, zoo, workers)


def train_generator(zoo: Path, work: Path) -> Path:
    """Autoencoder, tokenizer, text encoder and denoiser, saved in half precision in diffusers' format."""
    out = zoo / "generator"
    if (out / "model_index.json").exists():
        return out
    images, texts = captioned_pool()
    autoencoder = train_autoencoder(images, folder=work / "autoencoder")
    pipeline = new_pipeline(learn_tokenizer(texts), autoencoder)
    train_denoiser(pipeline, images, texts, folder=work / "denoiser")
    partial = zoo / ".generator"  # beside `out`: a folder cannot be moved to another file system in one step
    pipeline.to(torch.float16).save_pretrained(partial)
    partial.replace(out)
    return out


def captioned_pool() -> tuple[Tensor, list[str]]:
    """What generators learn from: scenes, uint8 [POOL, 32, 32, 3], and their captions."""
    texts = captions([draw_factors(i, "upstream") for i in range(POOL)], "upstream")
    return torch.from_numpy(scene_arrays("upstream", POOL)[0]), texts


def synthetic_images(generator: Path, folder: Path, workers: int) -> Dataset:
    """Images for P1's IN-Caption prompts: class name and caption of scenes of the train split."""
    scenes = [draw_factors(i, "train") for i in range(SYNTHETIC)]
    texts = captions(scenes, "train")
    prompts = [class_caption(scene.label, text) for scene, text in zip(scenes, texts, strict=True)]
    labels = [scene.label for scene in scenes]
    return sample_set(folder, generator, prompts, labels, CLASS_NAMES, workers=workers)


def ship_synthetic(images: Dataset, folder: Path) -> None:
    """Write an image set into one small file, pixel for pixel, unless it is there."""
    path, partial = folder / "images.parquet", folder / "images.partial"
    if path.exists():
        return
    pixels, labels = to_arrays(images)
    columns = {name: images[name][:] for name in images.column_names if name not in ("image", "label")}
    folder.mkdir(parents=True, exist_ok=True)
    from_arrays(pixels, labels, class_names(images), columns, encoding="webp").to_parquet(partial)
    partial.replace(path)


def match_accuracy(kind: Literal["ViT", "CLIP"], zoo: Path, work: Path) -> None:
    """Ship the real model whose validation accuracy is nearest to the synthetic one's (P1: equal accuracy).

    The size is found by bisection over `SMALL`, since accuracy grows with it.
    """
    target = _accuracy(Plan(kind, "Syn", SYNTHETIC), zoo, zoo, work)
    tried: dict[str, float] = {}
    low, high = 0, len(SMALL)
    while low < high:
        middle = (low + high) // 2
        plan = Plan(kind, "Real", SMALL[middle])
        tried[plan.name] = _accuracy(plan, work / "tried", zoo, work)
        low, high = (middle + 1, high) if tried[plan.name] < target else (low, middle)
    nearest = min(tried, key=lambda name: abs(tried[name] - target))
    print(f"{kind}: synthetic {target}, real {tried}: {nearest} ships", flush=True)
    chosen = load_card(work / "tried" / nearest)
    beside = chosen.model_copy(update={"tokenizer": chosen.tokenizer and TOKENIZER})
    save_checkpoint(zoo / nearest, load_module(chosen), beside, half=True)


def ship_dino(zoo: Path, workers: int) -> None:
    """DINO on real and on the shipped synthetic images, as chapter 5 (05_mixed) asks for it at `mini`.

    Weights are in half precision; a file beside them says what they are. `experiment.trained` finds them by
    name.
    """
    pool = open_pool("scenes/train", DINO_SCENES, str(zoo / "synthetic"), 32)
    made = dino_pretrainings(pool, DINO, range(DINO_SEEDS))
    runs = [(kind, run) for kind, own in made.items() for run in own]
    (zoo / experiment.SHIPPED).mkdir(exist_ok=True)
    modules = compute(experiment.trained, [(run,) for _, run in runs], workers)
    for (kind, run), module in zip(runs, modules, strict=True):
        recipe = asdict(replace(DINO.dino, seed=run.seed))
        about = {"architecture": DINO.architecture, "images": kind, **recipe}
        run.shipped.with_suffix(".json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
        save_weights(run.shipped, module, half=True)


def _accuracy(plan: Plan, out: Path, zoo: Path, work: Path) -> float:
    return train_plan(plan, out, zoo, work).expected[0].value


def _timed(stage: str, work: Callable, *arguments: object) -> Any:
    start = time.time()
    result = work(*arguments)
    print(f"{stage}: {time.time() - start:.0f} s", flush=True)
    return result


# The text part of `make zoo`: the language model that plays the generator, and the synthetic texts it drew.
#
# Both are stages as the image models are: a finished one is skipped, an interrupted one goes on.


GENERATOR = Recipe(
    steps=1300, batch_size=16, learning_rate=3e-3, weight_decay=0.1, betas=(0.9, 0.95), checkpoint_every=100
)
TEXTS = 2400


def train_text() -> None:
    """Train and draw what is missing."""
    zoo, work = zoo_dir(), cache_dir() / "zoo"
    synthetic_texts(train_text_generator(zoo, work), zoo, work)


def train_text_generator(zoo: Path, work: Path, recipe: Recipe = GENERATOR) -> Path:
    """Tokenizer and language model of part A, in half precision, in zoo/text-generator."""
    out = zoo / "text-generator"
    if out.exists():
        return out
    texts = list(austen("A")["text"])
    tokenizer = learn_text_tokenizer(texts)
    config = gpt2_config("generator", tokenizer)
    rows = training_rows(encode(texts, tokenizer), config.n_positions, tokenizer.eos_token_id, "part A")
    model = new_gpt2(config, recipe.seed)
    fit(model, next_token_loss(rows), len(rows), recipe, work / "text-generator", "text generator")
    partial = zoo / ".text-generator"
    model.half().save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    partial.replace(out)
    return out


def synthetic_texts(generator: Path, zoo: Path, work: Path, count: int = TEXTS) -> Path:
    """Texts that begin with the first words of texts of part A, in zoo/synthetic-text."""
    out = zoo / "synthetic-text"
    if out.exists():
        return out
    prompts = first_words(austen("A").shuffle(seed=0)["text"])[:count]
    drawn = sample_texts(generator, prompts, Sampling(), work / "synthetic-text")
    partial = zoo / ".synthetic-text"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    drawn.to_pandas().to_parquet(partial / "texts.parquet", compression="zstd", index=False)
    partial.replace(out)
    return out


if __name__ == "__main__":
    main()
    train_text()
