"""BLIP-2 captions of images, for P1's IN-Caption prompts "class, caption" (sec. 3)."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import datasets
import torch
from PIL import Image
from tqdm.auto import tqdm
from transformers import Blip2ForConditionalGeneration

from synreal.data.stored import decoded, stored_bytes, undecoded
from synreal.errors import InputError
from synreal.generate.local_model import checkpoint_name, load_local
from synreal.paths import cache_dir

# P1 and SynRep do not say how they decode; these are the settings of BLIP-2's authors.
BEAMS = 5
MAX_NEW_TOKENS = 30
SHARD = 256  # images whose captions are kept together; an interrupted run loses no more than these


class Captioner:
    """A BLIP-2 checkpoint in a local folder, such as Salesforce/blip2-opt-2.7b saved from the hub.

    On a GPU it computes in half precision. Raises InputError as `load_local`.
    """

    def __init__(self, folder: str | Path, device: str | torch.device = "cpu", batch_size: int = 16):
        self._processor, self._model = load_local(
            folder, Blip2ForConditionalGeneration, device, torch.float16
        )
        self.name = checkpoint_name(folder)
        self.batch_size = batch_size

    @torch.inference_mode()
    def caption(self, images: Sequence[Image.Image]) -> list[str]:
        """One caption per RGB image: what the model writes unprompted, by beam search."""
        texts: list[str] = []
        for start in range(0, len(images), self.batch_size):
            batch = self._processor(images=list(images[start : start + self.batch_size]), return_tensors="pt")
            pixels = batch.pixel_values.to(self._model.device, self._model.dtype)
            tokens = self._model.generate(
                pixels, num_beams=BEAMS, do_sample=False, max_new_tokens=MAX_NEW_TOKENS
            )
            texts += self._processor.batch_decode(tokens, skip_special_tokens=True)
        return [" ".join(text.split()) for text in texts]


def add_captions(images: datasets.Dataset, captioner: Captioner) -> datasets.Dataset:
    """The image set with a column `caption`.

    Captions are kept in the cache by captioner and images, shard by shard, so that an interrupted run goes on
    and a second one computes nothing.
    Raises InputError when the set has captions already, or an image cannot be decoded.
    """
    if "caption" in images.column_names:
        raise InputError("caption: the image set has this column already; remove or rename it first")
    raw = undecoded(images)
    captions: list[str] = []
    for start in tqdm(range(0, len(raw), SHARD), desc="caption", delay=5):
        captions += _shard(raw.select(range(start, min(start + SHARD, len(raw)))), captioner)
    return images.add_column("caption", captions)


def _shard(raw: datasets.Dataset, captioner: Captioner) -> list[str]:
    kept = cache_dir() / "captions" / f"{_key(raw, captioner)}.json"
    if kept.exists():
        return json.loads(kept.read_text(encoding="utf-8"))
    captions = captioner.caption([decoded(row) for row in raw])
    kept.parent.mkdir(parents=True, exist_ok=True)
    partial = kept.with_suffix(".partial")
    partial.write_text(json.dumps(captions, indent=0, ensure_ascii=False), encoding="utf-8")
    partial.replace(kept)
    return captions


def _key(raw: datasets.Dataset, captioner: Captioner) -> str:
    digest = hashlib.sha256(f"{captioner.name} {BEAMS} {MAX_NEW_TOKENS}".encode())
    for row in raw:
        digest.update(hashlib.sha256(stored_bytes(row)).digest())
    return digest.hexdigest()[:32]
