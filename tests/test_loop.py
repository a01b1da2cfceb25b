"""The training loop: resuming to the identical result, refusing, averaging, stopping when it diverges."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from synreal.errors import InputError
from synreal.train.loop import Recipe, batch_rows, fit

ROWS = 40
RECIPE = Recipe(steps=12, batch_size=8, learning_rate=0.05, warmup_steps=2, checkpoint_every=4)
X = torch.randn(ROWS, 4, generator=torch.Generator().manual_seed(0))
Y = X @ torch.tensor([[1.0], [-2.0], [0.5], [3.0]])


def model():
    torch.manual_seed(7)
    return nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 1))


def loss(network, rows, generator):
    x = X[rows] + 0.1 * torch.randn(len(rows), 4, generator=generator)
    return F.mse_loss(network(x), Y[rows])


def failing(at, with_what):
    """The same loss, but the given step goes wrong."""
    steps = iter(range(10**6))

    def broken(network, rows, generator):
        value = loss(network, rows, generator)
        if next(steps) != at:
            return value
        if isinstance(with_what, float):
            return value * with_what
        raise with_what

    return broken


def weights(network):
    return torch.cat([p.detach().flatten() for p in network.parameters()])


def trained(recipe, folder=None, compute=loss):
    network = model()
    return network, fit(network, compute, ROWS, recipe, folder)


@pytest.mark.parametrize(
    "recipe", [RECIPE, replace(RECIPE, optimizer="sgd", learning_rate=0.01), replace(RECIPE, ema_decay=0.9)]
)
def test_an_interrupted_run_resumes_to_the_identical_weights(recipe, tmp_path):
    whole, losses = trained(recipe)
    with pytest.raises(KeyboardInterrupt):
        trained(recipe, tmp_path, failing(9, KeyboardInterrupt()))
    torch.manual_seed(99)
    torch.rand(5)  # the state of torch's global generator plays no part
    resumed, rest = trained(recipe, tmp_path)
    assert rest == losses[8:]  # the last state kept was that after step 8
    assert torch.equal(weights(resumed), weights(whole))
    again, nothing = trained(recipe, tmp_path)
    assert nothing == [] and torch.equal(weights(again), weights(whole))
    assert not resumed.training and [file.name for file in tmp_path.iterdir()] == ["state.pt"]


def test_training_lowers_the_loss_and_follows_its_seed():
    one, losses = trained(replace(RECIPE, steps=60))
    assert len(losses) == 60 and losses[-1] < losses[0] / 3
    assert torch.equal(weights(one), weights(trained(replace(RECIPE, steps=60))[0]))
    assert not torch.equal(weights(one), weights(trained(replace(RECIPE, steps=60, seed=1))[0]))


def test_another_recipe_in_the_folder_is_refused(tmp_path):
    trained(RECIPE, tmp_path)
    before = (tmp_path / "state.pt").read_bytes()
    with pytest.raises(InputError, match=r"another recipe \(steps, betas differ\); finish it with its own"):
        trained(replace(RECIPE, steps=20, betas=(0.8, 0.9)), tmp_path)
    assert (tmp_path / "state.pt").read_bytes() == before


@pytest.mark.parametrize(("factor", "shown"), [(float("inf"), "inf"), (float("nan"), "nan")])
def test_divergence_stops_and_names_step_and_folder(tmp_path, factor, shown):
    with pytest.raises(InputError, match=f"loss is {shown} at step 6; lower learning_rate$"):
        trained(RECIPE, None, failing(6, factor))
    with pytest.raises(InputError, match=f"at step 6; .*the last good state is in {tmp_path}"):
        trained(RECIPE, tmp_path, failing(6, factor))
    assert torch.equal(weights(trained(RECIPE, tmp_path)[0]), weights(trained(RECIPE)[0]))


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 60), st.integers(1, 70), st.integers(0, 3), st.integers(0, 5))
def test_an_epoch_shows_every_row_at_most_once_and_all_that_fill_a_batch(count, batch, epoch, seed):
    recipe = Recipe(steps=1, batch_size=batch, seed=seed)
    size = min(batch, count)
    steps = range(epoch * (count // size), (epoch + 1) * (count // size))
    rows = torch.cat([batch_rows(step, count, recipe) for step in steps]).tolist()
    assert len(rows) == len(set(rows)) == count // size * size
    assert set(rows) <= set(range(count))


def test_every_epoch_is_another_permutation():
    epochs = [
        torch.cat([batch_rows(step, ROWS, RECIPE) for step in range(5 * e, 5 * e + 5)]) for e in range(3)
    ]
    assert all(sorted(epoch.tolist()) == list(range(ROWS)) for epoch in epochs)
    assert not torch.equal(epochs[0], epochs[1]) and not torch.equal(epochs[1], epochs[2])


def test_averaged_weights_follow_the_formula():
    seen = []

    def watched(network, rows, generator):
        seen.append(weights(network).clone())
        return loss(network, rows, generator)

    last, _ = trained(RECIPE, compute=watched)
    expected = seen[0]
    for step, now in enumerate([*seen[1:], weights(last)]):
        # diffusers: the decay rises as (1 + t) / (10 + t) up to its final value
        decay = min(0.9, (1 + step) / (10 + step)) if step else 0.0
        expected = decay * expected + (1 - decay) * now
    averaged = weights(trained(replace(RECIPE, ema_decay=0.9))[0])
    assert torch.allclose(averaged, expected, atol=1e-6)
    assert not torch.allclose(averaged, weights(last), atol=1e-3)


def test_sgd_steps_by_hand():
    network = nn.Linear(1, 1, bias=False)
    nn.init.constant_(network.weight, 2.0)
    recipe = Recipe(
        steps=2, batch_size=1, learning_rate=0.1, optimizer="sgd", weight_decay=0.01, warmup_steps=0,
        clip_norm=1e9,
    )  # fmt: skip
    fit(network, lambda net, rows, generator: 3 * net(torch.ones(1, 1)).sum(), 1, recipe)
    first = 3 + 0.01 * 2.0
    after = 2.0 - 0.1 * first
    second = 0.9 * first + 3 + 0.01 * after
    half = 0.5 * (1 + math.cos(math.pi / 2))  # the cosine, half way
    assert network.weight.item() == pytest.approx(after - 0.1 * half * second, abs=1e-6)


def test_gradients_are_clipped_to_the_given_norm():
    network = nn.Linear(1, 1, bias=False)
    nn.init.constant_(network.weight, 2.0)
    recipe = Recipe(
        steps=1, batch_size=1, learning_rate=0.1, optimizer="sgd", weight_decay=0.0, warmup_steps=0
    )
    fit(network, lambda net, rows, generator: 1000 * net(torch.ones(1, 1)).sum(), 1, recipe)
    assert network.weight.item() == pytest.approx(1.9, abs=1e-5)


def test_half_precision_computes_in_bfloat16_and_keeps_float32_weights():
    seen = set()

    def watched(network, rows, generator):
        predicted = network(X[rows])
        seen.add(predicted.dtype)
        return F.mse_loss(predicted.float(), Y[rows])

    trained(RECIPE, compute=watched)
    assert seen == {torch.float32}
    network, losses = trained(replace(RECIPE, precision="bf16", steps=60), compute=watched)
    assert seen == {torch.float32, torch.bfloat16}
    assert weights(network).dtype == torch.float32 and losses[-1] < losses[0] / 2
