"""Tokens per second of training a GPT-2, beside a plain PyTorch loop, and of sampling from one.

    python benchmarks/text.py [ARCHITECTURE [CONTEXT [ROWS [STEPS]]]]

By default the chapter's small network on the CPU, and GPT-2 with 124 million weights, in bf16, where there is
a GPU: then the fraction of the GPU's peak is printed too (6 FLOP for each weight and token, and attention's
12 x layers x width x context; Chowdhery et al. 2022, app. B). The first steps are not counted.
"""

import sys
import time
from collections.abc import Callable

import torch
from torch.nn import functional as F

from synreal.text.gpt2 import fastest_device, gpt2_config, learn_text_tokenizer, new_gpt2
from synreal.text.sample import Sampling, continue_texts
from synreal.text.train import next_token_loss
from synreal.train.loop import fit
from synreal.train.recipes import Recipe

PEAK = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L4": 121e12, "4090": 165e12}  # dense bf16
WARM = 3  # steps before the clock starts


def with_fit(model: torch.nn.Module, rows: torch.Tensor, recipe: Recipe) -> float:
    """Seconds a step, the first WARM left out."""
    loss, starts = next_token_loss(rows), []

    def timed(model: torch.nn.Module, chosen: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        starts.append(clock())
        return loss(model, chosen, generator)

    fit(model, timed, len(rows), recipe)
    return (starts[-1] - starts[WARM]) / (len(starts) - 1 - WARM)


def plain(model: torch.nn.Module, rows: torch.Tensor, recipe: Recipe) -> float:
    """The same in the shortest loop that trains."""
    device = fastest_device()
    model.to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate)
    starts = []
    for step in range(recipe.steps):
        starts.append(clock())
        first = step * recipe.batch_size % (len(rows) - recipe.batch_size + 1)
        batch = rows[first : first + recipe.batch_size].to(device)
        with torch.autocast(device, torch.bfloat16, enabled=recipe.precision == "bf16"):
            logits = model(input_ids=batch[:, :-1], use_cache=False).logits
        value = F.cross_entropy(logits.flatten(0, 1).float(), batch[:, 1:].flatten())
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return (starts[-1] - starts[WARM]) / (len(starts) - 1 - WARM)


def clock() -> float:
    """Wall time on a GPU, when it is idle; processor time on the CPU, which other programs do not change."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def share_of_peak(model: torch.nn.Module, context: int, rate: float) -> str:
    """The fraction of the GPU's peak at `rate` tokens per second, if its peak is known."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    peak = next((value for key, value in PEAK.items() if key in name), None)
    if peak is None:
        return ""
    config, weights = model.config, sum(p.numel() for p in model.parameters())
    each = 6 * weights + 12 * config.n_layer * config.n_embd * context
    return f", {rate * each / peak:.1%} of the peak of {name}"


def main() -> None:
    gpu = torch.cuda.is_available()
    second = "second" if gpu else "second of the processor"
    defaults = ["gpt2", "1024", "16", "30"] if gpu else ["mini", "128", "8", "60"]
    given = sys.argv[1:] + defaults[len(sys.argv) - 1 :]
    architecture, (context, batch, steps) = given[0], map(int, given[1:])
    tokenizer = learn_text_tokenizer(["a text of few words"])
    config = gpt2_config(architecture, tokenizer)
    config.vocab_size = 50257 if gpu else 1024
    rows = torch.randint(config.vocab_size, (max(64, batch), context + 1))
    recipe = Recipe(steps, batch, 1e-4, warmup_steps=1, precision="bf16" if gpu else "no")
    ways: dict[str, Callable[..., float]] = {"synreal's fit": with_fit, "plain PyTorch": plain}
    for name, way in ways.items():
        model = new_gpt2(config, 0)
        rate = batch * context / way(model, rows, recipe)
        print(f"{name}: {rate:,.0f} tokens per {second}{share_of_peak(model, context, rate)}", flush=True)
    model.to(fastest_device()).eval()
    start = clock()
    texts = continue_texts(model, [[1]] * 64, list(range(64)), Sampling(1.0, 1.0), tokenizer.eos_token_id)
    rate = sum(map(len, texts)) / (clock() - start)
    print(f"sampling 64 texts at once: {rate:,.0f} tokens per {second}")


if __name__ == "__main__":
    main()
