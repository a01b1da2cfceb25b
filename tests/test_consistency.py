"""Consistency with a judge, the paper's judge on a random state dict, and the world's own at toy size."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from synreal import zoo
from synreal.data.hierarchy import Hierarchy
from synreal.data.scenes import scene_arrays
from synreal.errors import InputError
from synreal.evaluate import Predictions, report
from synreal.models import load_card, load_classifier
from synreal.synbench.consistency import among, confusion, consistency, consistency_gap, group_confusion
from synreal.train.recipes import Recipe

CLASSES = ("tabby", "siamese", "pug", "beagle", "boxer", "cup")
PETS = Hierarchy("pets", {"cat": CLASSES[:2], "dog": CLASSES[2:5], "thing": CLASSES[5:]})


def predictions(labels, answers, name="set", classes=CLASSES):
    logits = np.eye(len(classes), dtype=np.float32)[answers]
    ids = np.array([f"i{index:05d}" for index in range(len(labels))])
    return Predictions(ids, np.asarray(labels, dtype=np.int64), logits, classes, "judge", "m", "p", name)


def drawn(n=3000, right=0.7, inside=0.8, seed=0, name="set"):
    """Wrong answers stay in the coarse group with probability `inside`, where it has another class."""
    rng, labels = np.random.default_rng(seed), np.arange(n) % 6
    answers = labels.copy()
    for row in np.flatnonzero(rng.random(n) > right):
        group = next(g for g in ((0, 1), (2, 3, 4), (5,)) if labels[row] in g)
        near = [c for c in group if c != labels[row]]
        far = [c for c in range(6) if c not in group]
        answers[row] = rng.choice(near if near and rng.random() < inside else far)
    return predictions(labels, answers, name)


def value_of(table, metric, group="all", column="value"):
    [value] = table.loc[(table["metric"] == metric) & (table["group"] == group), column]
    return value


def holds(table, metric, value, group="all"):
    return value_of(table, metric, group, "ci_low") < value < value_of(table, metric, group, "ci_high")


def test_by_hand():
    #                      tabby  siamese    pug       beagle boxer cup
    found = predictions([0, 0, 0, 1, 1, 2, 2, 2, 3, 3, 4, 5], [0, 1, 5, 1, 0, 2, 3, 4, 3, 0, 4, 0])
    table = consistency(found, PETS, draws=50)
    assert value_of(table, "consistency") == pytest.approx(5 / 12)
    assert value_of(table, "class_consistency", "pug") == pytest.approx(1 / 3)
    assert value_of(table, "unrestricted_consistency", "dog") == pytest.approx(3 / 6)
    assert value_of(table, "unrestricted_consistency_micro") == pytest.approx(5 / 11)
    # six wrong answers in groups of two or more: four stay inside
    assert value_of(table, "inside_share") == pytest.approx(4 / 6)
    assert value_of(table, "inside_share", "cat") == pytest.approx(2 / 3)
    assert value_of(table, "inside_share", column="n") == 6
    # evenly spread, three wrong cats would stay with 1 of 5 classes each, three wrong dogs with 2 of 5
    assert value_of(table, "inside_lift") == pytest.approx(4 / (3 / 5 + 6 / 5))
    assert value_of(table, "class_consistency", "pug", "note") == "too few images (3 < 10)"


def test_consistency_is_accuracy_and_its_interval_that_of_the_report():
    found = drawn()
    table, accuracy = consistency(found, PETS, draws=100), report(found, PETS, draws=100)
    assert table.columns.tolist() == accuracy.columns.tolist()
    for ours, theirs in (
        ("consistency", "accuracy"),
        ("restricted_consistency_macro", "restricted_accuracy_macro"),
    ):
        for column in ("value", "n", "ci_low", "ci_high", "interval"):
            assert value_of(table, ours, column=column) == value_of(accuracy, theirs, column=column)


def test_answers_within_the_group_are_told_from_chance():
    table = consistency(drawn(inside=0.8), PETS, draws=200)
    assert holds(table, "inside_share", 0.8)
    assert value_of(table, "inside_lift", column="ci_low") > 2
    blind = consistency(drawn(n=20000, right=1 / 6, inside=1 / 5), PETS, draws=200)
    assert holds(blind, "inside_lift", 1, "cat")


def test_the_switch_between_all_classes_and_those_of_the_set():
    logits = np.array([[1, 0, 0, 0, 9, 0], [0, 0, 3, 2, 0, 0], [0, 1, 0, 0, 0, 2]], dtype=np.float32)
    known = replace(predictions([0, 3, 1], [0, 0, 0]), logits=logits)
    assert value_of(consistency(known, draws=10), "consistency") == 0
    asked = among(known, ["beagle", "tabby", "siamese"])
    assert asked.class_names == ("beagle", "tabby", "siamese") and asked.labels.tolist() == [1, 0, 2]
    assert asked.logits.tolist() == [[0, 1, 0], [2, 0, 0], [0, 0, 1]]
    assert value_of(consistency(asked, draws=10), "consistency") == 1
    with pytest.raises(InputError, match=r"'judge' does not know \[dodo\]"):
        among(known, ["tabby", "dodo"])
    with pytest.raises(InputError, match=r"2 images of 'set' are of other classes than \[siamese\]"):
        among(known, ["siamese"])


def test_a_gap_is_found_where_there_is_one():
    real, synthetic = drawn(right=0.9, name="real"), drawn(right=0.7, seed=1, name="synthetic")
    gap = consistency_gap(real, synthetic, PETS, draws=400)
    assert value_of(gap, "consistency", column="difference") == pytest.approx(-0.2, abs=0.04)
    assert value_of(gap, "consistency", column="ci_high") < 0
    assert value_of(gap, "consistency", column="p") < 0.01
    assert (
        value_of(gap, "inside_share", column="ci_low") < 0 < value_of(gap, "inside_share", column="ci_high")
    )
    assert (gap["p_holm"] >= gap["p"]).all() and set(gap["synthetic"]) == {"synthetic"}
    same = consistency_gap(real, drawn(right=0.9, seed=2), PETS, draws=400)
    assert (
        value_of(same, "consistency", column="ci_low") < 0 < value_of(same, "consistency", column="ci_high")
    )


def test_a_gap_of_sets_with_other_images_and_classes():
    real, synthetic = drawn(n=600), drawn(n=300, seed=1)
    kept = synthetic.labels != 5
    parts = {name: getattr(synthetic, name)[kept] for name in ("ids", "labels", "logits")}
    gap = consistency_gap(real, replace(synthetic, **parts), PETS, draws=50)
    assert value_of(gap, "consistency", column="n_synthetic") == 250
    assert value_of(gap, "class_consistency", "cup", "note") == "too few images (0 < 10)"
    assert np.isnan(value_of(gap, "class_consistency", "cup", "value_synthetic"))
    with pytest.raises(InputError, match="preprocess_hash differs; predict both with the same judge"):
        consistency_gap(real, replace(synthetic, preprocess_hash="other"))


def test_clusters_widen_intervals():
    found = drawn(n=1200, seed=4)
    answers = np.repeat(found.logits[::12].argmax(axis=1), 12)
    found = predictions(np.repeat(found.labels[::12], 12), answers)
    photographs = pd.Series([f"p{index // 12}" for index in range(1200)], index=found.ids)
    widths = [
        value_of(table, "consistency", column="ci_high") - value_of(table, "consistency", column="ci_low")
        for table in (consistency(found, draws=50), consistency(found, clusters=photographs, draws=50))
    ]
    assert widths[1] > 2 * widths[0]
    gap = consistency_gap(found, found, clusters=(photographs, None), draws=50)
    assert value_of(gap, "consistency", column="difference") == 0


def test_confusion_inside_a_group():
    found = predictions([2, 2, 2, 3, 4, 0], [2, 3, 5, 3, 2, 2])
    table = group_confusion(found, PETS, "dog")
    assert table.index.tolist() == ["pug", "beagle", "boxer"]
    assert table.columns.tolist() == ["pug", "beagle", "boxer", "elsewhere"]
    assert table.to_numpy().tolist() == [[1, 1, 0, 1], [0, 1, 0, 0], [1, 0, 0, 0]]
    assert confusion(found).to_numpy().sum() == 6 and confusion(found).loc["tabby", "pug"] == 1
    with pytest.raises(InputError, match=r"coarse: found 'bird', .*\[cat, dog, thing\]"):
        group_confusion(found, PETS, "bird")


def published_convnext(dims, depths, classes=1000):
    """Names and shapes of timm's published ConvNeXt."""
    shapes = {"stem.0.weight": (dims[0], 3, 4, 4), "stem.0.bias": (dims[0],)}
    shapes |= pair("stem.1", dims[0]) | pair("head.norm", dims[-1])
    shapes |= {"head.fc.weight": (classes, dims[-1]), "head.fc.bias": (classes,)}
    for stage, (width, depth) in enumerate(zip(dims, depths, strict=True)):
        if stage:
            shapes |= pair(f"stages.{stage}.downsample.0", dims[stage - 1])
            shapes[f"stages.{stage}.downsample.1.weight"] = (width, dims[stage - 1], 2, 2)
            shapes[f"stages.{stage}.downsample.1.bias"] = (width,)
        for block in range(depth):
            name = f"stages.{stage}.blocks.{block}"
            shapes |= pair(f"{name}.norm", width) | {
                f"{name}.gamma": (width,),
                f"{name}.conv_dw.bias": (width,),
            }
            shapes[f"{name}.conv_dw.weight"] = (width, 1, 7, 7)
            shapes |= {f"{name}.mlp.fc1.weight": (4 * width, width), f"{name}.mlp.fc1.bias": (4 * width,)}
            shapes |= {f"{name}.mlp.fc2.weight": (width, 4 * width), f"{name}.mlp.fc2.bias": (width,)}
    return shapes


def pair(name, width):
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def test_the_papers_judge_is_timms_convnext_at_224_pixels():
    card = load_card("ConvNeXt-B")
    assert (card.resize, card.image_size, card.crop, card.interpolation) == (256, 224, "centre", "bicubic")
    config = timm.get_pretrained_cfg("convnext_base.fb_in1k")
    assert (card.mean, card.std, card.interpolation) == (config.mean, config.std, config.interpolation)
    assert int(card.image_size / config.crop_pct) == card.resize and len(card.class_names) == 1000
    with torch.device("meta"):
        module = timm.create_model(card.architecture, num_classes=1000, **card.architecture_args)
    layout = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    assert layout == published_convnext((128, 256, 512, 1024), (3, 3, 27, 3))


def test_the_papers_judge_loads_strictly_from_the_folder_named(tmp_path, monkeypatch):
    card = load_card("ConvNeXt-B")
    monkeypatch.delenv("SYNREAL_JUDGE_DIR", raising=False)
    with pytest.raises(InputError, match=r"SYNREAL_JUDGE_DIR to .* holds convnext_base.fb_in1k.*hugg"):
        load_classifier(card)
    monkeypatch.setenv("SYNREAL_JUDGE_DIR", str(tmp_path))
    dims, depths = (8, 12, 16, 24), (1, 1, 2, 1)
    small = card.model_copy(update={"architecture_args": {"dims": list(dims), "depths": list(depths)}})
    generator = torch.Generator().manual_seed(0)
    state = {
        k: 0.2 * torch.randn(shape, generator=generator)
        for k, shape in published_convnext(dims, depths).items()
    }
    save_file(state, tmp_path / card.weights)
    picture = [Image.fromarray(np.random.default_rng(0).integers(0, 256, (260, 300, 3), dtype=np.uint8))]
    whole = load_classifier(small).logits(picture)
    hundred = load_classifier(small, class_names=card.class_names[:100]).logits(picture)
    assert whole.shape == (1, 1000) and whole.std() > 0.01 and torch.equal(hundred, whole[:, :100])
    save_file({k: v for k, v in state.items() if k != "stages.2.blocks.1.gamma"}, tmp_path / card.weights)
    with pytest.raises(InputError, match=r"1 missing: stages.2.blocks.1.gamma"):
        load_classifier(small)


def test_the_worlds_judge_is_trained_saved_and_found_again(tmp_path, monkeypatch):
    monkeypatch.setattr(zoo, "SCENES", 64)
    monkeypatch.setattr(zoo, "JUDGE", Recipe(steps=2, batch_size=16, warmup_steps=1))
    monkeypatch.setattr("synreal.zoo.EVALUATED", 50)
    card = zoo.train_judge(tmp_path / "zoo", tmp_path / "work")
    assert (card.name, card.role, card.training["source"]) == ("Judge", "judge", "real")
    assert (tmp_path / "zoo" / "Judge" / card.weights).stat().st_size < 2.5 * 2**20
    assert load_classifier(card).logits(scene_arrays("val", 3)[0]).shape == (3, 10)
    monkeypatch.setattr(zoo, "train_classifier", None)
    assert zoo.train_judge(tmp_path / "zoo", tmp_path / "work") == card
