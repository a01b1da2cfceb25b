"""Prompts of classes, and captions by a language model that expand them."""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import datasets
import torch
from PIL import Image
from tqdm.auto import tqdm
from transformers import AutoProcessor, Blip2ForConditionalGeneration

from synreal.cache import write_text
from synreal.data.decode import decoded, stored_bytes, undecoded
from synreal.errors import InputError
from synreal.paths import cache_dir


def load_local(
    folder: str | Path, kind: Any, device: str | torch.device, gpu_dtype: torch.dtype | str
) -> tuple[Any, Any]:
    """(processor, model in eval mode on `device`) of a folder in the layout of `save_pretrained`.

    kind: the class of transformers that loads the model. gpu_dtype: precision on a GPU, "auto" for the one
    that the checkpoint was saved in; the CPU always computes in float32.
    Raises InputError when files are missing, are no safetensors, or do not fill every weight of the model.
    """
    folder = Path(folder)
    _check_files(folder)
    dtype = torch.float32 if torch.device(device).type == "cpu" else gpu_dtype
    try:
        processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
        model, report = kind.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype=dtype, output_loading_info=True
        )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        raise InputError(f"{folder}: transformers cannot load it as {kind.__name__}: {error}") from error
    # transformers itself fills what is missing with random numbers and only warns.
    if missing := sorted(report["missing_keys"]):
        raise InputError(
            f"{folder}: {len(missing)} weights of {type(model).__name__} are missing, the first is "
            f"{missing[0]}; download the checkpoint again, whole"
        )
    return processor, model.eval().to(device)


def checkpoint_name(folder: str | Path) -> str:
    """The folder's name and 12 hexadecimal digits of all that its files say, wherever they lie."""
    digest = hashlib.sha256()
    for path in sorted(path for path in Path(folder).iterdir() if path.is_file()):
        with path.open("rb") as stream:
            digest.update(path.name.encode() + hashlib.file_digest(stream, "sha256").digest())
    return f"{Path(folder).resolve().name}-{digest.hexdigest()[:12]}"


def _check_files(folder: Path) -> None:
    lacking = [name for name in ("config.json", "*.safetensors") if not any(folder.glob(name))]
    if lacking:
        raise InputError(
            f"{folder}: no {' and no '.join(lacking)}; put the whole checkpoint there as it is published on "
            "the hub (configuration, processor, tokenizer, weights as safetensors), or as save_pretrained "
            "writes it"
        )


# BLIP-2 captions of images, for P1's IN-Caption prompts "class, caption" (sec. 3).


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
    write_text(kept, json.dumps(captions, indent=0, ensure_ascii=False))
    return captions


def _key(raw: datasets.Dataset, captioner: Captioner) -> str:
    digest = hashlib.sha256(f"{captioner.name} {BEAMS} {MAX_NEW_TOKENS}".encode())
    for row in raw:
        digest.update(hashlib.sha256(stored_bytes(row)).digest())
    return digest.hexdigest()[:32]


# The prompts of P1's factor F2 (sec. 3, Appendix A.1): what is added to "class, caption", and where.
#
# The captions of the scenes world speak of size, light and persons in the same words, so its generator
# follows the same prompts. P1's example for persons also ends "in a bright environment"; its rule does not
# say so, and here the two are separate studies.


Style = Literal["caption", "class", "scale", "brightness", "person"]

# The images of a class take the templates of a style in turn, so each gets a third of them, or all.
TEMPLATES: dict[Style, tuple[str, ...]] = {
    "caption": ("{name}, {caption}",),  # IN-Caption, P1's default
    "class": ("{name}",),
    "scale": ("large {name}, {caption}", "small {name}, {caption}", "{name}, {caption}"),
    "brightness": (
        "{name}, {caption} in a bright environment",
        "{name}, {caption} in a dark environment",
        "{name}, {caption}",
    ),
    "person": ("{name} occluded by human body, {caption}",),
}


def make_prompts(class_names: Sequence[str], captions: Sequence[str], style: Style) -> list[str]:
    """One prompt per image, from the name of its class and its caption.

    The templates of a style alternate within each class, and begin one later in each next class, so that each
    gets its share of every class and of the whole, whatever the order of the images.
    Raises InputError for an unknown style, lists of different lengths, and empty captions where the style
    needs them.
    """
    if style not in TEMPLATES:
        raise InputError(f"style: found {style!r}, expected one of {', '.join(TEMPLATES)}")
    templates = TEMPLATES[style]
    _check(class_names, captions, needed=any("{caption}" in template for template in templates))
    shift = {name: number for number, name in enumerate(dict.fromkeys(class_names))}
    seen: Counter[str] = Counter()
    prompts = []
    for name, caption in zip(class_names, captions, strict=True):
        template = templates[(shift[name] + seen[name]) % len(templates)]
        prompts.append(template.format(name=name, caption=caption.rstrip(" .")))
        seen[name] += 1
    return prompts


def _check(class_names: Sequence[str], captions: Sequence[str], needed: bool) -> None:
    if len(captions) != len(class_names):
        raise InputError(f"captions: found {len(captions)} for {len(class_names)} images, expected one each")
    empty = [row for row, caption in enumerate(captions) if not caption.strip(" .")]
    if empty and needed:
        raise InputError(
            f"captions: {len(empty)} of {len(captions)} are empty, the first in row {empty[0]}; caption "
            "these images again or leave them out"
        )
