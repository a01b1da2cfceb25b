"""The text part of `make zoo`: the language model that plays the generator, and the synthetic texts it drew.

Both are stages as the image models are: a finished one is skipped, an interrupted one goes on.
"""

import shutil
from pathlib import Path

from synreal.paths import cache_dir, zoo_dir
from synreal.text.austen import austen
from synreal.text.gpt2 import gpt2_config, new_gpt2
from synreal.text.rows import encode, training_rows
from synreal.text.sample import Sampling, first_words, sample_texts
from synreal.text.tokenizer import learn_tokenizer
from synreal.text.train import next_token_loss
from synreal.train.loop import fit
from synreal.train.recipes import Recipe

GENERATOR = Recipe(
    steps=1300, batch_size=16, learning_rate=3e-3, weight_decay=0.1, betas=(0.9, 0.95), checkpoint_every=100
)
TEXTS = 2400


def main() -> None:
    """Train and draw what is missing."""
    zoo, work = zoo_dir(), cache_dir() / "zoo"
    synthetic_texts(train_text_generator(zoo, work), zoo, work)


def train_text_generator(zoo: Path, work: Path, recipe: Recipe = GENERATOR) -> Path:
    """Tokenizer and language model of part A, in half precision, in zoo/text-generator."""
    out = zoo / "text-generator"
    if out.exists():
        return out
    texts = list(austen("A")["text"])
    tokenizer = learn_tokenizer(texts)
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
