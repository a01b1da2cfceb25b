"""Language models trained and tuned by the same loop and the same `tune` as classifiers of images."""

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import GPT2Config, GPT2LMHeadModel

from synreal.errors import InputError
from synreal.text.gpt2 import fingerprint, head_of, load_gpt2, new_gpt2
from synreal.text.rows import IGNORED
from synreal.train.curve import Watch
from synreal.train.loop import Loss, device_of, fit
from synreal.train.processes import processes
from synreal.train.recipes import Recipe
from synreal.train.tune import Method, Tunable, tune


def token_losses(model: Any, rows: Tensor) -> Tensor:
    """Minus the log probability (nats) of each token of rows [n, context + 1] but the first: [n, context].

    0 where a row is IGNORED.
    """
    rows = rows.to(device_of(model))
    logits = model(input_ids=rows[:, :-1].clamp(min=0), use_cache=False).logits
    flat = F.cross_entropy(
        logits.flatten(0, 1).float(), rows[:, 1:].flatten(), ignore_index=IGNORED, reduction="none"
    )
    return flat.view(len(rows), -1)


def next_token_loss(rows: Tensor) -> Loss:
    """The loss that `fit` and `tune` take: the mean over the tokens of the chosen full rows."""

    def loss(model: Any, chosen: Tensor, generator: torch.Generator) -> Tensor:
        return token_losses(model, rows[chosen]).mean()

    return loss


@dataclass(frozen=True)
class Looks:
    """What is looked at while a network is tuned."""

    watch: Watch
    of: str  # what `watch` depends on, such as the `digest` of its rows; the kept curve is named after it
    every: int | None = None  # steps


def pretrained(config: GPT2Config, rows: Tensor, recipe: Recipe, work: Path) -> Path:
    """The folder below `work` of a network trained on rows [n, context + 1] from nothing.

    It is named after all that the result depends on, and not trained again when it is complete.
    """
    inputs = {"config": config.to_diff_dict(), "rows": digest(rows), "recipe": asdict(recipe)}
    out = work / _name(inputs)
    if not out.exists():
        model = new_gpt2(config, recipe.seed)
        fit(model, next_token_loss(rows), len(rows), recipe, _state(out))
        _finish(out, model)
    return out


def tuned(
    start: Path,
    rows: Tensor,
    method: Method,
    recipe: Recipe,
    work: Path,
    looks: Looks | None = None,
) -> Path:
    """The folder below `work` of the network in `start` after `tune` on rows; named and kept as `pretrained`.

    curve.csv in it holds what the looks saw.
    """
    check_method(method, load_gpt2(start).config)
    inputs: dict[str, Any] = {"start": fingerprint(start), "rows": digest(rows), "method": method}
    inputs |= {"recipe": asdict(recipe), "looks": [looks.of, looks.every] if looks else None}
    out = work / _name(inputs)
    if not out.exists():
        model = load_gpt2(start)
        tunable = Tunable(model, next_token_loss(rows), len(rows), head_of(model), inputs=inputs)
        watch, every = (looks.watch, looks.every) if looks else (None, None)
        done = tune(tunable, method, recipe, _state(out), watch, every)
        _finish(out, model, {"curve.csv": done.curve.to_csv(index=False)})
    return out


def check_method(method: Method, config: GPT2Config) -> None:
    """Raises InputError for a method that does not tune a language model of this config."""
    if method not in get_args(Method) or method == "flyp":  # which sets images beside captions
        raise InputError(f"method: found {method!r}, expected full, head, lp-ft, wise-ft or lora")
    if method == "lora" and config.tie_word_embeddings:
        raise InputError(
            "method lora: the head of this network is its embedding of tokens, which the additions would "
            "change too; choose full, head, lp-ft or wise-ft"
        )


def digest(rows: Tensor) -> str:
    """16 hexadecimal digits of the rows."""
    return hashlib.sha256(rows.numpy().tobytes()).hexdigest()[:16]


def _name(inputs: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]


def _state(out: Path) -> Path:
    return out.with_name(f"{out.name}.training")


def _finish(out: Path, model: GPT2LMHeadModel, texts: Mapping[str, str] | None = None) -> None:
    """Network and files under their name in one move; then the state of training can go.

    Of several processes, the main one writes and the others wait.
    """
    if processes().is_main_process:
        partial = out.with_name(f"{out.name}.partial")
        model.save_pretrained(partial)
        for name, text in (texts or {}).items():
            (partial / name).write_text(text)
        partial.replace(out)
        shutil.rmtree(_state(out), ignore_errors=True)
    processes().wait_for_everyone()
