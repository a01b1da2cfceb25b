"""`make zoo`: train everything that ships in `zoo/` from nothing; each stage that is finished is skipped."""

import time
from pathlib import Path

import torch

from synreal.data.captions import captions
from synreal.data.scenes import draw_factors, scene_arrays
from synreal.generate.pipeline import new_pipeline
from synreal.generate.tokenizer import learn_tokenizer
from synreal.paths import cache_dir, zoo_dir
from synreal.train.generator import train_autoencoder, train_denoiser

POOL = 40_000  # captioned real images that the generator is trained on


def generator() -> Path:
    """Autoencoder and text-conditional denoiser, trained on the upstream pool, in diffusers' format."""
    out, work = zoo_dir() / "generator", cache_dir() / "zoo"
    if (out / "model_index.json").exists():
        return out
    images = torch.from_numpy(scene_arrays("upstream", POOL)[0])
    texts = captions([draw_factors(i, "upstream") for i in range(POOL)], "upstream")
    start = time.time()
    autoencoder = train_autoencoder(images, folder=work / "autoencoder")
    print("autoencoder", time.time() - start, flush=True)
    with torch.no_grad():
        x = images[:2000].permute(0, 3, 1, 2).float() / 127.5 - 1
        print("L1", float((autoencoder(x) - x).abs().mean()), flush=True)
    autoencoder.save_pretrained(work / "autoencoder" / "final")
    pipeline = new_pipeline(learn_tokenizer(texts), autoencoder)
    train_denoiser(pipeline, images, texts, folder=work / "denoiser")
    pipeline.save_pretrained(work / "generator")
    print("done", time.time() - start, flush=True)
    return out


if __name__ == "__main__":
    generator()
