"""DINO: the teacher follows, crops are of the generator, neighbours vote."""

import pytest
import torch

from synreal.errors import InputError
from synreal.train.dino import Dino, dino, knn_logits, multi_crop
from synreal.train.recipes import TINY, DinoRecipe

RECIPE = DinoRecipe(
    steps=3,
    batch_size=8,
    learning_rate=1e-3,
    warmup_steps=0,
    prototypes=64,
    momentum=(0.9, 1.0),
    local_crops=2,
)


def images(count=16):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (count, 32, 32, 3), dtype=torch.uint8, generator=generator)


def network():
    return TINY["ResNet"].create(10, 0)


def pair():
    module = network()
    module.reset_classifier(0)
    return Dino(module, RECIPE)


def crops(seed=0):
    batch = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
    return multi_crop(batch, RECIPE.local_crops, torch.Generator().manual_seed(seed))


def test_the_teacher_follows_slowly_and_learns_nothing_itself():
    both = pair()
    teacher, student = (next(part.parameters()) for part in (both.teacher, both.student))
    before = teacher.clone()
    with torch.no_grad():
        student += 1
    both(*crops()).backward()
    assert torch.allclose(teacher, before + 0.1, atol=1e-5)
    assert student.grad is not None and teacher.grad is None


def test_the_teacher_stands_still_in_the_end():
    both = pair()
    moved = []
    for _ in range(RECIPE.steps):
        before = next(both.teacher.parameters()).clone()
        with torch.no_grad():
            next(both.student.parameters()).add_(1)
        both(*crops())
        moved.append((next(both.teacher.parameters()) - before).mean().item())
    # 0.9, 0.95, 1 of a cosine, with the student 1, 1.9 and 2.805 ahead
    assert moved == pytest.approx([0.1, 0.095, 0.0], abs=1e-5)


def test_the_running_statistics_of_both_agree():
    both = pair().train()
    for seed in range(2):
        both(*crops(seed))
    before = [buffer.clone() for buffer in both.student.buffers()]
    both._follow()
    assert all((a == b).all() for a, b in zip(both.teacher.buffers(), before, strict=True))


def test_crops_have_two_sizes_and_depend_on_the_generator():
    batch = torch.rand(4, 3, 32, 32)
    whole, small = multi_crop(batch, 3, torch.Generator().manual_seed(1))
    assert [x.shape[-1] for x in whole] == [32, 32] and [x.shape[-1] for x in small] == [16] * 3
    again = multi_crop(batch, 3, torch.Generator().manual_seed(1))[0]
    assert (whole[0] == again[0]).all() and (whole[0] != whole[1]).any()


def test_training_changes_the_trunk_and_keeps_the_classes():
    module, untrained = network(), network()
    losses = dino(module, images(), RECIPE)
    assert len(losses) == 3 and module.num_classes == 10
    assert (module.stem[0].weight != untrained.stem[0].weight).any()
    assert module(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
    again = network()
    assert dino(again, images(), RECIPE) == losses
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), again.parameters(), strict=True))


def test_a_vit_of_one_size_is_refused():
    with pytest.raises(InputError, match="set dynamic_img_size"):
        dino(TINY["ViT"].create(10, 0), images(), RECIPE)


def test_neighbours_vote():
    bank = torch.eye(3).repeat(30, 1)
    labels = torch.arange(3).repeat(30)
    logits = knn_logits(bank, labels, torch.eye(3) + 0.01, 3)
    assert logits.argmax(1).tolist() == [0, 1, 2]
    assert torch.allclose(logits.exp().sum(1), torch.ones(3), atol=1e-4)
