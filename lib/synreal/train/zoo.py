"""`make zoo`: train everything that ships in `zoo/` from nothing.

Stages: the generator, on the captioned upstream pool; its synthetic images, the first of which ship; the
classifiers; the other generators, the judge and the detector; networks that learn without labels. A
finished stage is skipped and an interrupted one goes on, so the command may be stopped at any moment. All but
the first generator are so small that one thread each, side by side, is the fastest way to train them.
"""

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import torch
from datasets import Dataset
from joblib import delayed
from torch import Tensor

from synreal.data.captions import captions, class_caption
from synreal.data.factors import draw_factors
from synreal.data.imageset import class_names, from_arrays, to_arrays
from synreal.data.pool import open_pool
from synreal.data.scenes import scene_arrays
from synreal.data.sprites import CLASS_NAMES
from synreal.generate.pipeline import new_pipeline
from synreal.generate.sample import sample_set
from synreal.generate.tokenizer import learn_tokenizer
from synreal.models.card import load_card
from synreal.models.load import load_module, save_checkpoint, save_weights
from synreal.paths import cache_dir, zoo_dir
from synreal.train import mixed
from synreal.train.detector import train_detector
from synreal.train.generator import train_autoencoder, train_denoiser
from synreal.train.judge import train_judge
from synreal.train.mixed_plans import dino_pretrainings
from synreal.train.networks import TINY
from synreal.train.plans import TOKENIZER, Plan, train_plan
from synreal.train.variants import train_cascade, train_epsilon_and_sing
from synreal.workers import compute, side_by_side

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
    """DINO on real and on the shipped synthetic images, as the chapter 03a_mixed asks for it at `mini`.

    Weights are in half precision; a file beside them says what they are. `mixed.trained` finds them by name.
    """
    pool = open_pool("scenes/train", DINO_SCENES, str(zoo / "synthetic"), 32)
    made = dino_pretrainings(pool, DINO, range(DINO_SEEDS))
    runs = [(kind, run) for kind, own in made.items() for run in own]
    (zoo / mixed.SHIPPED).mkdir(exist_ok=True)
    modules = compute(mixed.trained, [(run,) for _, run in runs], workers)
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


if __name__ == "__main__":
    main()
