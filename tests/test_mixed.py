"""Choosing rows, training in stages, and what is kept of it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from synreal.data.scenes import scene_set
from synreal.data.worlds import Pool, unbalanced
from synreal.errors import InputError
from synreal.models.load import save_weights
from synreal.train import experiment
from synreal.train.experiment import Run, Stage, outputs, trained
from synreal.train.finetune import linear_probe
from synreal.train.grid import predict_grid
from synreal.train.losses import AUGMENTATIONS, augmented, mix_loss
from synreal.train.recipes import TINY

NETWORK = replace(
    TINY["ResNet"],
    pretrain=replace(TINY["ResNet"].pretrain, steps=2, warmup_steps=0),
    tune=replace(TINY["ResNet"].tune, steps=1, warmup_steps=0),
)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SYNREAL_CACHE", str(tmp_path))


@pytest.fixture(scope="module")
def pool():
    """80 real scenes, and 60 others in the place of synthetic images."""
    return Pool.of("pool", scene_set("train", 80), scene_set("val", 60))


@pytest.fixture(scope="module")
def test_pool():
    return Pool.of("scenes/test", scene_set("test", 30))


def one_run(pool, rows=None, **stage):
    rows = pool.choose(real=True, per_class=2, seed=0) if rows is None else rows
    return Run(NETWORK, (Stage(pool, rows, NETWORK.pretrain, **stage),))


def weights(run):
    return torch.cat([p.flatten() for p in trained(run).parameters()])


def test_choices_are_balanced_nested_and_of_one_kind(pool):
    few, more = (pool.choose(real=True, per_class=count, seed=3) for count in (2, 5))
    assert set(few) < set(more) and pool.real[more].all()
    assert np.bincount(pool.labels[more]).tolist() == [5] * 10
    assert not pool.real[pool.choose(real=False, per_class=1, seed=3)].any()
    assert set(few) != set(pool.choose(real=True, per_class=2, seed=4))


def test_too_few_images_of_a_class_are_named(pool):
    with pytest.raises(InputError, match="class .+ has 8 real images, 9 are asked for"):
        pool.choose(real=True, per_class=9, seed=0)


def test_unbalanced_counts_are_the_papers():
    assert unbalanced(40_000, 1000).sum() == 40_000
    counts = unbalanced(400, 10)
    assert counts.sum() == 400 and counts[0] == 21 and counts[-1] == 59
    assert (np.diff(counts) > 0).all()


def test_training_is_a_function_of_data_seed_and_recipe_alone(pool, tmp_path, monkeypatch):
    run = one_run(pool)
    first = weights(run)
    assert (weights(run) == first).all()  # read from the cache
    monkeypatch.setenv("SYNREAL_CACHE", str(tmp_path / "other"))
    assert (weights(run) == first).all()  # trained again
    assert (weights(replace(run, seed=1)) != first).any()


def test_what_changes_the_result_changes_the_key(pool):
    run = one_run(pool)
    others = [
        replace(run, seed=1),
        one_run(pool, pool.choose(real=True, per_class=2, seed=1)),
        one_run(pool, augment=("crop",)),
        Run(TINY["ViT"], run.stages),
        replace(run, stages=(*run.stages, *run.stages)),
    ]
    assert len({run.key, *(other.key for other in others)}) == 6
    same = replace(pool, name="another name")
    assert one_run(same).key == run.key


def test_an_interrupted_run_leaves_its_first_stages(pool, monkeypatch):
    run = one_run(pool)
    tuned = replace(run, stages=(*run.stages, replace(run.stages[0], recipe=NETWORK.tune)))
    before = weights(run)
    monkeypatch.setattr(experiment, "fit", lambda *_: pytest.fail("the first stage is trained again"))
    assert (weights(tuned) != before).any()
    assert not list(run.folder.parent.glob("*/state.pt"))


def repainted(pool, row):
    """The pool with one pixel of one image a little different."""
    images = pool.images.copy()
    images[row, 0, 0, 0] ^= 1
    return replace(pool, images=images)


def test_what_ships_is_found_by_a_machine_that_rounds_scenes_differently(pool, tmp_path, monkeypatch):
    monkeypatch.setenv("SYNREAL_ZOO", str(tmp_path / "zoo"))
    scenes = replace(pool, name="scenes/train")
    run, rounded, redrawn, other = (
        one_run(changed, np.arange(140))
        for changed in (scenes, repainted(scenes, 0), repainted(scenes, 139), repainted(pool, 0))
    )
    assert run.key != rounded.key and run.shipped == rounded.shipped
    assert len({each.shipped for each in (run, redrawn, other, one_run(pool, np.arange(140)))}) == 4
    run.shipped.parent.mkdir(parents=True)
    save_weights(run.shipped, NETWORK.create(10, seed=5), half=True)
    expected = torch.cat([p.flatten() for p in NETWORK.create(10, seed=5).parameters()])
    assert torch.allclose(weights(rounded), expected, rtol=1e-3, atol=1e-6)
    assert not torch.allclose(weights(redrawn), expected, rtol=1e-3, atol=1e-6)


def test_mixloss_takes_both_kinds(pool):
    rows = np.concatenate([pool.choose(real=real, per_class=2, seed=0) for real in (True, False)])
    loss, data = one_run(pool, rows, objective="mixloss"), one_run(pool, rows)
    assert (weights(loss) != weights(data)).any()
    with pytest.raises(InputError, match="mixloss: the rows are of one kind only"):
        one_run(pool, objective="mixloss")


def test_mixloss_adds_the_losses_of_both_kinds():
    """Images of one grey each and a network that scores by it: what either half costs is known."""
    images = torch.tensor([0, 0, 255, 255], dtype=torch.uint8).view(4, 1, 1, 1).expand(4, 8, 8, 3)
    labels = torch.tensor([0, 0, 1, 1])

    class Scores(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.tensor([3.0, 1.0]))

        def forward(self, x):
            return (x.amax((1, 2, 3)) < 0).float()[:, None] * self.scale

    loss = mix_loss((images[:2], labels[:2]), (images[2:], labels[2:]))
    found = loss(Scores(), torch.tensor([0, 1]), torch.Generator().manual_seed(0))
    of_real = torch.nn.functional.cross_entropy(torch.tensor([[3.0, 1.0]]), torch.tensor([0]))
    assert found.item() == pytest.approx(of_real.item() + np.log(2), abs=1e-5)


def test_head_alone_leaves_the_trunk(pool):
    run = one_run(pool)
    probe = replace(run.stages[0], recipe=None, objective="probe")
    before, after = trained(run), trained(replace(run, stages=(*run.stages, probe)))
    assert (before.stem[0].weight == after.stem[0].weight).all()
    assert (before.fc.weight != after.fc.weight).any()
    learned = [outputs(module, pool.images[probe.rows]).argmax(1) for module in (before, after)]
    labels = torch.from_numpy(pool.labels[probe.rows])
    assert (learned[1] == labels).sum() > (learned[0] == labels).sum()


def test_only_a_probe_goes_without_a_recipe(pool):
    with pytest.raises(InputError, match="labels: found recipe None; only a probe takes none"):
        replace(one_run(pool).stages[0], recipe=None)


def test_dino_has_a_recipe_of_its_own(pool):
    with pytest.raises(InputError, match="dino: found recipe Recipe.*DINO, and it alone, has its own"):
        one_run(pool, objective="dino")
    with pytest.raises(InputError, match="labels: found recipe DinoRecipe"):
        Stage(pool, np.arange(4), NETWORK.dino)


def test_a_linear_probe_finds_the_best_line_whatever_the_units():
    x = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
    labels = (x[:, 0] > 0.2).long() + (x[:, 0] > 1)
    scale = torch.tensor([100.0, 1.0, 0.01])
    layers = [linear_probe(features, labels, 3) for features in (x, x * scale + 5)]
    answers = [layer(features).argmax(1) for layer, features in zip(layers, (x, x * scale + 5), strict=True)]
    assert (answers[0] == labels).float().mean() > 0.95
    assert (answers[0] == answers[1]).float().mean() > 0.98


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_augmentations_are_a_function_of_the_generator(name):
    images = torch.rand(16, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    first, again, other = (
        augmented(images, (name,), torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert first.shape == images.shape and (first == again).all() and (first != other).any()
    assert first.min() >= -1 and first.max() <= 1 and (first != images).any()


def test_blocking_covers_a_square_of_grey():
    images = torch.ones(64, 3, 32, 32)
    covered = (
        (AUGMENTATIONS["blocking"](images, torch.Generator().manual_seed(0)) == 0).float().mean((1, 2, 3))
    )
    assert 0.3 < (covered > 0).float().mean() < 0.7  # half of them
    assert torch.allclose(covered[covered > 0], torch.tensor(0.16), atol=0.03)


def test_unknown_augmentation_is_refused(pool):
    with pytest.raises(InputError, match=r"augment: found \['blur'\]"):
        one_run(pool, augment=("blur",))


def test_predictions_are_kept_by_cell(pool, test_pool, monkeypatch):
    grid = {("Real", number): [replace(one_run(pool), seed=seed) for seed in range(2)] for number in (1, 2)}
    first = predict_grid(grid, test_pool)
    monkeypatch.setattr("synreal.train.grid.trained", lambda run: pytest.fail("predicted again"))
    again = predict_grid(grid, test_pool)
    assert list(again) == list(grid) and [len(repeats) for repeats in again.values()] == [2, 2]
    for cell in grid:
        assert all((a.logits == b.logits).all() for a, b in zip(first[cell], again[cell], strict=True))
    assert len({one.model_hash for one in first["Real", 1]}) == 2
    assert first["Real", 1][0].image_set == "scenes/test"
    assert (first["Real", 1][0].ids == test_pool.ids).all()


def test_a_test_image_among_the_training_images_is_refused(pool):
    with pytest.raises(InputError, match="pixel"):
        predict_grid({"leak": [one_run(pool)]}, replace(pool, name="scenes/test"))


def test_other_classes_than_the_tests_are_refused(pool, test_pool):
    other = replace(test_pool, class_names=test_pool.class_names[::-1])
    with pytest.raises(InputError, match="pool has the classes .* expected the same in the same order"):
        predict_grid({"other": [one_run(pool)]}, other)
