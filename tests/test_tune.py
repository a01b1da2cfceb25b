"""Tuning by every method: what changes, what stays, what is refused, and resuming."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from synreal.errors import InputError
from synreal.train.finetune import Tunable, tune
from synreal.train.loop import Diverged
from synreal.train.recipes import Recipe

ROWS = 24
X = torch.randn(ROWS, 3, 4, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(ROWS) % 3
RECIPE = Recipe(6, 8, 0.05, warmup_steps=1, checkpoint_every=2)


class Network(nn.Module):
    """Every kind of layer that LoRA adapts, batch statistics, dropout, and a head."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(7)
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8))
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.linear, self.drop = nn.Linear(8, 8), nn.Dropout(0.2)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        tokens = self.stem(x).flatten(2).transpose(1, 2)
        tokens = tokens + self.attention(tokens, tokens, tokens, need_weights=False)[0]
        return self.head(self.drop(self.linear(tokens)).mean(1))


def loss(network, rows, generator):
    return F.cross_entropy(network(X[rows]), Y[rows])


def watch(network):
    return {"loss": float(loss(network, torch.arange(ROWS), None).detach())}


def tunable(compute=loss, **fields):
    return Tunable(Network(), compute, ROWS, "head", **fields)


def changed(tuned, network):
    now = network.state_dict()
    return {name.split(".")[0] for name, tensor in tuned.before.items() if not torch.equal(tensor, now[name])}


@pytest.mark.parametrize(
    ("method", "parts"),
    [
        ("full", {"stem", "attention", "linear", "head"}),
        ("head", {"head"}),
        ("lp-ft", {"stem", "attention", "linear", "head"}),
        ("wise-ft", {"stem", "attention", "linear", "head"}),
        ("lora", {"attention", "linear", "head"}),
    ],
)
def test_a_method_changes_what_it_should_and_is_watched_before_and_after(method, parts):
    start = tunable()
    tuned = tune(start, method, RECIPE, watch=watch, every=4)
    network = start.module
    assert changed(tuned, network) == parts
    assert len(tuned.losses) == 6
    assert {0, 4, 6} <= set(tuned.curve["step"]) and tuned.curve["step"].is_monotonic_increasing
    assert tuned.curve["loss"].iloc[0] == pytest.approx(watch(Network().eval())["loss"])
    assert tuned.curve["loss"].iloc[-1] == pytest.approx(watch(network)["loss"], abs=1e-5)
    assert network.state_dict().keys() == Network().state_dict().keys()
    assert all(weight.requires_grad for weight in network.parameters()) and not network.training


@pytest.mark.parametrize("method", ["full", "lp-ft", "lora", "wise-ft"])
def test_an_interrupted_run_goes_on_to_the_identical_result(method, tmp_path):
    whole = tunable()
    expected = tune(whole, method, RECIPE, watch=watch, every=2)
    calls = iter(range(1000))

    def interrupted(network, rows, generator):
        if next(calls) == 5:
            raise KeyboardInterrupt
        return loss(network, rows, generator)

    with pytest.raises(KeyboardInterrupt):
        tune(tunable(interrupted), method, RECIPE, tmp_path, watch, 2)
    resumed = tunable()
    found = tune(resumed, method, RECIPE, tmp_path, watch, 2)
    assert found.losses == expected.losses and found.curve.equals(expected.curve)
    for name, tensor in whole.module.state_dict().items():
        assert torch.equal(tensor, resumed.module.state_dict()[name]), name


def test_a_probe_recipe_trains_the_head_and_leaves_all_steps_to_the_rest():
    start = tunable()
    seen = []

    def spying(network, rows, generator):
        seen.append(network.linear.weight.requires_grad)
        return loss(network, rows, generator)

    start = tunable(spying)
    tune(start, "lp-ft", RECIPE, probe=replace(RECIPE, steps=3))
    assert seen == [False] * 3 + [True] * 6
    seen.clear()
    tune(start, "lp-ft", replace(RECIPE, steps=5))
    assert seen == [False] * 2 + [True] * 3


def test_wise_ft_ends_between_before_and_after():
    full, mixed = tunable(), tunable()
    tune(full, "full", RECIPE)
    tuned = tune(mixed, "wise-ft", RECIPE, alpha=0.25)
    end, now = full.module.state_dict(), mixed.module.state_dict()
    for name, before in tuned.before.items():
        assert torch.equal(tuned.after[name], end[name])
        if before.is_floating_point():
            torch.testing.assert_close(now[name], 0.75 * before + 0.25 * end[name])
    assert int(now["stem.1.num_batches_tracked"]) == 6


def test_lora_adds_a_low_rank_to_linear_layers_and_attention_alone():
    start = tunable()
    before = {name: weight.detach().clone() for name, weight in start.module.named_parameters()}
    tune(start, "lora", RECIPE)
    moved = {n for n, weight in start.module.named_parameters() if not torch.equal(weight, before[n])}
    adapted = {"attention.in_proj_weight", "attention.out_proj.weight", "linear.weight"}
    assert adapted < moved and moved <= adapted | {"head.weight", "head.bias"}


def test_lora_of_a_network_of_convolutions_adapts_those():
    class Convolutional(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(1)
            self.body, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 3)

        def forward(self, x):
            return self.head(self.body(x).mean((2, 3)))

    network = Convolutional()
    before = network.body.weight.detach().clone()
    tune(Tunable(network, loss, ROWS, "head"), "lora", RECIPE)
    assert isinstance(network.body, nn.Conv2d) and not torch.equal(network.body.weight, before)


def test_flyp_trains_by_the_contrastive_loss():
    other = tunable(contrastive=lambda network, rows, generator: 0 * network(X[rows]).sum() + 5)
    assert tune(other, "flyp", RECIPE).losses == [5.0] * 6
    with pytest.raises(InputError, match="method flyp contrasts images with captions"):
        tune(tunable(), "flyp", RECIPE)


@pytest.mark.parametrize("method", ["lp_ft", "", "Full"])
def test_an_unknown_method_lists_those_there_are(method):
    with pytest.raises(InputError, match="expected one of full, head, lp-ft, wise-ft, flyp, lora"):
        tune(tunable(), method, RECIPE)


def test_a_head_that_the_network_lacks_names_what_it_has():
    start = replace(tunable(), head="classifier")
    with pytest.raises(InputError, match="no parameter under 'classifier'; the module has stem, attention"):
        tune(start, "head", RECIPE)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"method": "head"}, "method full, now head"),
        ({"inputs": {"images": "b"}}, "images a, now b"),
        ({"weights": True}, "weights "),
        ({"recipe": replace(RECIPE, seed=1)}, "another recipe .seed differ"),
    ],
)
def test_a_folder_of_another_run_is_refused(change, told, tmp_path):
    tune(tunable(inputs={"images": "a"}), "full", RECIPE, tmp_path)
    again = tunable(inputs=change.get("inputs", {"images": "a"}))
    if "weights" in change:
        nn.init.zeros_(again.module.head.bias)
    with pytest.raises(InputError, match=told):
        tune(again, change.get("method", "full"), change.get("recipe", RECIPE), tmp_path)


def test_divergence_leaves_the_curve_the_last_good_state_and_says_where(tmp_path):
    steps = iter(range(1000))

    def diverging(network, rows, generator):
        return loss(network, rows, generator) * (float("nan") if next(steps) == 5 else 1)

    with pytest.raises(Diverged) as error:
        tune(tunable(diverging), "full", RECIPE, tmp_path)
    assert f"the last good state is in {tmp_path}; the losses up to there" in str(error.value)
    assert len((tmp_path / "losses.csv").read_text().splitlines()) == 1 + 5
    assert torch.load(tmp_path / "state.pt", weights_only=True)["step"] == 4
