"""The training loop: resuming to the identical result, refusing, averaging, stopping when it diverges."""

import math
from dataclasses import replace

import pytest
import torch
from accelerate import PartialState, debug_launcher
from accelerate.state import AcceleratorState
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from synreal.errors import InputError
from synreal.train.loop import Batches, Diverged, batch_rows, fit
from synreal.train.recipes import Recipe
from synreal.train.state import Curve

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


# --- what tuning needs ---


class Dropping(nn.Sequential):
    """A network whose own randomness, dropout, comes from torch's global generator."""

    def __init__(self):
        torch.manual_seed(7)
        super().__init__(nn.Linear(4, 16), nn.Dropout(0.5), nn.Linear(16, 1))


def test_dropout_resumes_to_the_identical_weights_and_leaves_the_callers_randomness_alone(tmp_path):
    whole = Dropping()
    torch.manual_seed(3)
    fit(whole, loss, ROWS, RECIPE)
    drawn = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(drawn, torch.rand(1))
    resumed = Dropping()
    with pytest.raises(KeyboardInterrupt):
        fit(resumed, failing(9, KeyboardInterrupt()), ROWS, RECIPE, tmp_path)
    resumed = Dropping()
    torch.manual_seed(99)
    fit(resumed, loss, ROWS, RECIPE, tmp_path)
    assert torch.equal(weights(resumed), weights(whole))


def test_a_kept_state_from_before_a_field_was_added_still_resumes(tmp_path):
    whole, _ = trained(RECIPE, tmp_path)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    del state["recipe"]["micro_batch"], state["curve"]
    torch.save(state, tmp_path / "state.pt")
    again, rest = trained(RECIPE, tmp_path)
    assert rest == [] and torch.equal(weights(again), weights(whole))
    with pytest.raises(InputError, match=r"micro_batch differ"):
        trained(replace(RECIPE, micro_batch=2), tmp_path)


@pytest.mark.parametrize("part", [1, 3, 8, 100])
def test_parts_of_a_step_sum_to_the_step(part):
    whole, losses = trained(RECIPE, compute=exact)
    split, parts = trained(replace(RECIPE, micro_batch=part), compute=exact)
    torch.testing.assert_close(weights(split), weights(whole), atol=1e-4, rtol=0)
    assert parts == pytest.approx(losses, abs=1e-5)


def exact(network, rows, generator):
    return F.mse_loss(network(X[rows]), Y[rows])


def test_data_fetched_ahead_give_the_same_result_as_data_in_memory():
    direct, losses = trained(RECIPE, compute=exact)
    fetched = model()
    told = fit(fetched, on_batch, ROWS, RECIPE, fetch=lambda rows, generator: (X[rows], Y[rows]))
    assert told == losses and torch.equal(weights(fetched), weights(direct))


def on_batch(network, batch, generator):
    return F.mse_loss(network(batch[0]), batch[1])


def noisy(rows, generator):
    return X[rows] + 0.1 * torch.randn(len(rows), 4, generator=generator), Y[rows]


def test_fetched_noise_depends_on_neither_workers_nor_interruption(tmp_path, monkeypatch):
    recipe, found = replace(RECIPE, micro_batch=4), []
    for cores in ({0}, {0, 1, 2}):
        monkeypatch.setattr("os.sched_getaffinity", lambda _, cores=cores: cores)
        network = model()
        fit(network, on_batch, ROWS, recipe, fetch=noisy)
        found.append(weights(network))
    calls = iter(range(10**6))

    def interrupted(network, batch, generator):
        if next(calls) == 19:  # the second part of step 9
            raise KeyboardInterrupt
        return on_batch(network, batch, generator)

    with pytest.raises(KeyboardInterrupt):
        fit(model(), interrupted, ROWS, recipe, tmp_path, fetch=noisy)
    network = model()
    assert len(fit(network, on_batch, ROWS, recipe, tmp_path, fetch=noisy)) == 4
    assert torch.equal(found[0], found[1]) and torch.equal(weights(network), found[0])


def test_bad_input_in_a_worker_is_its_own_message():
    def broken(rows, generator):
        raise InputError("image 7: cannot be decoded")

    with pytest.raises(InputError, match=r"^image 7: cannot be decoded$"):
        fit(model(), on_batch, ROWS, RECIPE, fetch=broken)


def test_a_curve_has_looks_and_losses_of_the_whole_run_however_often_it_was_interrupted(tmp_path):
    seen = []

    def watch(network):
        assert not network.training
        seen.append(weights(network).clone())
        return {"sum": float(weights(network).sum())}

    whole = Curve(watch, every=5)
    fit(model(), loss, ROWS, RECIPE, curve=whole)
    assert whole.table()["step"].tolist() == [0, 5, 10, 12]
    assert torch.equal(seen[0], weights(model()))
    with pytest.raises(KeyboardInterrupt):
        fit(model(), failing(11, KeyboardInterrupt()), ROWS, RECIPE, tmp_path, curve=Curve(watch, every=5))
    resumed = Curve(watch, every=5)
    fit(model(), loss, ROWS, RECIPE, tmp_path, curve=resumed)
    assert resumed.losses == whole.losses and resumed.table().equals(whole.table())


def test_watching_does_not_change_what_is_learned_and_sees_the_average():
    recipe = replace(RECIPE, ema_decay=0.9)
    plain, _ = trained(recipe)
    seen, watched = [], model()
    curve = Curve(lambda network: seen.append(weights(network).clone()) or {"x": 0.0}, every=3)
    fit(watched, loss, ROWS, recipe, curve=curve)
    assert torch.equal(weights(watched), weights(plain)) and torch.equal(seen[-1], weights(plain))


def test_the_state_kept_is_one_that_gave_a_finite_loss(tmp_path):
    with pytest.raises(Diverged, match="loss is nan at step 4; .*; no state was kept yet"):
        trained(RECIPE, tmp_path / "early", failing(4, float("nan")))
    network = model()
    with pytest.raises(Diverged, match="at step 8; .*the last good state is in"):
        fit(network, failing(8, float("nan")), ROWS, RECIPE, tmp_path)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert state["step"] == 4 and len(state["curve"]["losses"]) == 4
    assert torch.isfinite(weights(network)).all()  # the step that diverged changed nothing


def test_frozen_parts_keep_their_batch_statistics_and_drop_nothing():
    network = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 1))
    network[0].requires_grad_(False)
    fit(network, exact, ROWS, RECIPE)
    assert torch.equal(network[0].running_mean, torch.zeros(4))
    network = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 1))
    fit(network, exact, ROWS, RECIPE)
    assert not torch.equal(network[0].running_mean, torch.zeros(4))


def in_two_processes(folder, recipe):
    torch.set_num_threads(1)
    AcceleratorState._reset_state(reset_partial_state=True)  # the parent's, which knows one process
    network = model()
    fit(network, exact, ROWS, recipe, folder)
    torch.save(weights(network), folder / f"{PartialState().process_index}.pt")


@pytest.mark.parametrize("batch", [8, 7])  # of which the processes take equal shares, or 4 and 3 rows
def test_two_processes_learn_what_one_does(batch, tmp_path, monkeypatch):
    # OpenMP's threads do not come along with a fork, and a child that counts on them waits for ever
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # or else Accelerate sets the number anew
    recipe = replace(RECIPE, batch_size=batch)
    debug_launcher(in_two_processes, (tmp_path, replace(recipe, micro_batch=2)), num_processes=2)
    one, two = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert torch.equal(one, two)
    torch.testing.assert_close(one, weights(trained(recipe, compute=exact)[0]), atol=1e-4, rtol=0)


def test_more_processes_than_rows_in_a_step_are_refused():
    with pytest.raises(InputError, match=r"batch_size: found 8 rows in a step \(of 40\), .* the 9 processes"):
        Batches(ROWS, RECIPE, processes=9)


def test_a_gradient_that_is_not_finite_stops_before_the_step(tmp_path):
    """The square root of 0 has a finite value and no finite slope."""
    network = model()

    def cornered(network, rows, generator):
        value = loss(network, rows, generator)
        return value + (0 * value).sqrt() if generator.initial_seed() == last else value

    seen = []
    fit(model(), lambda *given: seen.append(given[2].initial_seed()) or loss(*given), ROWS, RECIPE)
    last = seen[-1]
    with pytest.raises(Diverged, match="norm of the gradient is nan at step 11"):
        fit(network, cornered, ROWS, RECIPE, tmp_path)
    assert torch.isfinite(weights(network)).all()
    assert torch.load(tmp_path / "state.pt", weights_only=True)["step"] == 8
