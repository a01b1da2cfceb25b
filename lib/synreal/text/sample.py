"""Synthetic text: drawn from a language model in batches, each text from its own seed."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import datasets
import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import DynamicCache, GPT2LMHeadModel, PreTrainedTokenizerFast
from transformers.generation import LogitsProcessorList, TemperatureLogitsWarper, TopPLogitsWarper

from synreal.cache import write_text
from synreal.errors import InputError
from synreal.models.clip import tokenizer_hash
from synreal.text.gpt2 import Tokens, encode, fastest_device, fingerprint, load_with_tokenizer
from synreal.train.state import note_run

PROMPT_WORDS = 2  # of a real text, with which a synthetic one begins
AT_ONCE = 128  # texts in one batch
STEPS_BETWEEN_REMOVALS = 16  # tokens after which texts that have ended leave the batch


@dataclass(frozen=True)
class Sampling:
    """How text is drawn: what guidance is for images, temperature and top-p are for text."""

    temperature: float = 0.8  # below 1, likely words become likelier
    top_p: float = 0.95  # draw from the fewest tokens that have this probability together
    seed: int = 0  # text i is drawn from seed * 2**32 + i

    def __post_init__(self) -> None:
        if self.temperature <= 0 or not 0 < self.top_p <= 1:
            raise InputError(
                f"sampling: found temperature {self.temperature} and top_p {self.top_p}, expected a "
                "temperature above 0 and top_p above 0 and at most 1"
            )


def first_words(texts: Sequence[str], words: int = PROMPT_WORDS) -> list[str]:
    """The beginnings of texts, as prompts; of those long enough to go on."""
    split = [text.split() for text in texts]
    return [" ".join(found[:words]) for found in split if len(found) > words]


def sample_texts(
    generator: str | Path, prompts: Sequence[str], sampling: Sampling = Sampling(), folder: Path | None = None
) -> datasets.Dataset:
    """One text for each prompt, which it begins with, by the network in the folder `generator`.

    Columns: text, id, cluster (the id), source, prompt, seed, generator (its weights' sha256, 16 digits),
    temperature, top_p. A text ends where the network says so, or where its context does. With a `folder`,
    batches are kept there, and an interrupted run goes on; one made of something else, the tokenizer beside
    the weights among it, is refused.
    """
    model, tokenizer = load_with_tokenizer(generator)
    model.to(fastest_device())
    made_by = fingerprint(generator)
    inputs = asdict(sampling) | {"generator": made_by, "tokenizer": tokenizer_hash(generator)}
    inputs |= {"prompts": digest_of(prompts)}
    if folder:
        note_run(folder / "settings.json", inputs)
    encoded = encode(prompts, tokenizer)
    rows = []
    for start in tqdm(range(0, len(prompts), AT_ONCE), desc="sample text", mininterval=5):
        seeds = [(sampling.seed << 32) + i for i in range(start, min(start + AT_ONCE, len(prompts)))]
        texts = _batch(model, tokenizer, encoded[start : start + AT_ONCE], seeds, sampling, folder)
        for seed, prompt, text in zip(seeds, prompts[start:], texts, strict=False):
            name = f"{made_by}-{seed}"
            rows.append({"text": text, "id": name, "cluster": name, "prompt": prompt, "seed": seed})
    same = {"generator": made_by, "temperature": sampling.temperature, "top_p": sampling.top_p}
    return datasets.Dataset.from_list([row | {"source": "synthetic"} | same for row in rows])


def _batch(
    model: GPT2LMHeadModel,
    tokenizer: PreTrainedTokenizerFast,
    prompts: Sequence[Tokens],
    seeds: Sequence[int],
    sampling: Sampling,
    folder: Path | None,
) -> list[str]:
    file = folder and folder / f"{seeds[0]:012d}.json"
    if file and file.exists():
        return json.loads(file.read_text())
    drawn = continue_texts(model, prompts, seeds, sampling, tokenizer.eos_token_id)
    texts = [tokenizer.decode(tokens, clean_up_tokenization_spaces=False) for tokens in drawn]
    if file:
        write_text(file, json.dumps(texts))
    return texts


@torch.no_grad()
def continue_texts(
    model: GPT2LMHeadModel, prompts: Sequence[Tokens], seeds: Sequence[int], sampling: Sampling, end: int
) -> list[Tokens]:
    """The tokens of each prompt and of what follows, up to `end` (left out) or the network's context.

    Text i depends on its prompt and its seed, not on the others of the batch (but for rounding).
    """
    length = model.config.n_positions
    given = _padded([[end, *prompt] for prompt in prompts], length).to(model.device)
    chance = torch.stack([torch.rand(length, generator=torch.Generator().manual_seed(s)) for s in seeds])
    chance = chance.to(model.device)
    warp = LogitsProcessorList(
        [TemperatureLogitsWarper(sampling.temperature), TopPLogitsWarper(sampling.top_p)]
    )
    tokens, cache = given.clone(), DynamicCache(config=model.config)
    alive = torch.arange(len(prompts), device=model.device)
    for place in range(length - 1):
        logits = model(tokens[alive, place, None], past_key_values=cache, use_cache=True).logits[:, -1]
        drawn = _choose(warp(tokens, logits.float()).softmax(-1), chance[alive, place])
        asked = given[alive, place + 1]
        tokens[alive, place + 1] = torch.where(asked >= 0, asked, drawn)
        if (place + 1) % STEPS_BETWEEN_REMOVALS == 0:  # what follows an end is drawn in vain until here
            going = (tokens[alive, 1 : place + 2] != end).all(1)
            alive = alive[going]
            cache.batch_select_indices(going.nonzero().squeeze(1))
            if not len(alive):
                break
    return [_until(row[1:], end) for row in tokens.tolist()]


def _padded(texts: Sequence[Tokens], length: int) -> Tensor:
    """[n, length], filled with -1 behind each text."""
    padded = torch.full((len(texts), length), -1)
    for row, tokens in enumerate(texts):
        padded[row, : len(tokens)] = torch.tensor(tokens[:length])
    return padded


def _choose(probabilities: Tensor, chance: Tensor) -> Tensor:
    """The token [n] at which the cumulated probabilities [n, tokens] pass `chance` [n], in 0..1."""
    heights = probabilities.cumsum(-1)
    return torch.searchsorted(heights, chance[:, None] * heights[:, -1:]).squeeze(1)


def _until(tokens: Tokens, end: int) -> Tokens:
    """The tokens before `end`, or before the first place that was never reached."""
    stop = next((place for place, token in enumerate(tokens) if token in (end, -1)), len(tokens))
    return tokens[:stop]


def digest_of(prompts: Sequence[str]) -> str:
    """16 hexadecimal digits of the prompts."""
    return hashlib.sha256("\n".join(prompts).encode()).hexdigest()[:16]
