"""RealTune of checkpoints: what comes out is a checkpoint, and what goes wrong is said."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from synreal.data.decode import from_arrays
from synreal.data.imageset import load_image_set, not_generated
from synreal.errors import InputError
from synreal.models import Card, build_module, load_card, load_classifier, save_checkpoint
from synreal.train.recipes import Recipe
from synreal.train.state import accuracy_watch
from synreal.train.tuning import TuningData, collapsed, tune_checkpoint

CLASSES = ("coat", "bag", "sandal")
VIT = Card(
    name="tiny", role="ViT-Syn-1k", library="timm", architecture="vit_tiny_patch16_224",
    architecture_args={"img_size": 32, "patch_size": 16, "embed_dim": 16, "depth": 1, "num_heads": 2},
    activation="gelu", weights="model.safetensors", image_size=32, resize=32, crop="none",
    interpolation="bilinear", mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4), head="linear", class_names=CLASSES,
    license="MIT", training={"source": "synthetic", "images": 1000},
)  # fmt: skip
TINY_CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 16, "layers": 1, "head_width": 8},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1},
}
CLIP = VIT.model_copy(
    update={
        "name": "tiny-clip", "library": "open_clip", "architecture": "tiny", "activation": "quick_gelu",
        "head": "zero-shot", "templates": ("a photo of a {}.", "one {}."), "architecture_args": TINY_CLIP,
    }
)  # fmt: skip
RESNET = VIT.model_copy(
    update={
        "name": "tiny-resnet", "architecture": "resnet18", "activation": "relu", "image_size": 96,
        "architecture_args": {"channels": [8, 8, 8, 8], "layers": [1, 1, 1, 1], "stem_width": 8},
        "resize": 112, "crop": "centre",
    }
)  # fmt: skip
RECIPE = Recipe(4, 6, 1e-2, warmup_steps=1, checkpoint_every=2)
NETWORKS = {"vit": VIT, "clip": CLIP}


def saved(folder, card):
    torch.manual_seed(0)
    module = build_module(card)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.dim():
                parameter.normal_(std=0.1)
    save_checkpoint(folder, module, card)
    return folder


def pixels(count=12, size=32, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def images(count=12, names=CLASSES, **columns):
    columns = columns or {"source": ["real"] * count}
    return from_arrays(pixels(count), np.arange(count) % len(names), names, columns)


DISTILLED = VIT.model_copy(
    update={"name": "tiny-distilled", "architecture": "deit_tiny_distilled_patch16_224"}
)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    return {name: saved(folder / name, card) for name, card in NETWORKS.items()}


@pytest.mark.parametrize(
    ("kind", "method"),
    [*(("vit", method) for method in ("full", "head", "lp-ft", "wise-ft", "lora")), ("clip", "lora")],
)
def test_every_method_gives_a_checkpoint_that_opens(checkpoints, kind, method, tmp_path):
    card = tune_checkpoint(checkpoints[kind], images(), tmp_path / "out", method, RECIPE)
    classifier = load_classifier(tmp_path / "out")
    assert classifier.card == card == load_card(tmp_path / "out") and card.head == "linear"
    assert classifier.class_names == list(CLASSES)
    before = load_classifier(checkpoints[kind])
    assert not torch.allclose(classifier.logits(pixels()), before.logits(pixels()), atol=1e-4)
    files = {"card.yaml", "model.safetensors", "curve.csv", "losses.csv", "run.json"}
    assert {file.name for file in (tmp_path / "out").iterdir()} == files
    training = card.training
    assert (training["tuned_from"], training["source"]) == (NETWORKS[kind].name, "real")
    assert (training["images"], training["method"], training["steps"], training["seed"]) == (12, method, 4, 0)
    assert training["before"] == {"source": "synthetic", "images": 1000} and card.expected == ()


@pytest.mark.parametrize("method", ["full", "head", "lora"])
def test_both_heads_of_a_distilled_network_are_tuned(method, tmp_path):
    tune_checkpoint(saved(tmp_path / "two", DISTILLED), images(), tmp_path / "out", method, RECIPE)
    before, after = (load_classifier(tmp_path / name).module.state_dict() for name in ("two", "out"))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert {"head.weight", "head_dist.weight"} <= changed
    assert (method == "head") == (
        changed <= {f"{h}.{p}" for h in ("head", "head_dist") for p in ("weight", "bias")}
    )


def test_clip_begins_with_its_zero_shot_answers(checkpoints, tmp_path):
    still = replace(RECIPE, learning_rate=1e-12)
    tune_checkpoint(checkpoints["clip"], images(), tmp_path / "out", "full", still)
    found, zero_shot = load_classifier(tmp_path / "out"), load_classifier(checkpoints["clip"])
    torch.testing.assert_close(found.logits(pixels()), zero_shot.logits(pixels()), atol=1e-5, rtol=1e-5)
    unit = torch.nn.functional.normalize(zero_shot.features(pixels()), dim=-1)
    torch.testing.assert_close(found.features(pixels()), unit)
    assert (tmp_path / "out" / "model.safetensors").stat().st_size < 100_000  # no text tower


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"templates": ("one {}.",)}, "templates are needed by a zero-shot head, and by no other"),
        ({"tokenizer": "words"}, "tokenizer and prompt_names belong to a zero-shot head"),
        ({"class_names": ("coat", "bag")}, r"head.weight \[3, 16\], expected \[2, 16\]"),
        ({"architecture_args": TINY_CLIP | {"embed_dim": 8}}, r"of another shape: head.weight"),
        (
            {"activation": "gelu", "architecture_args": TINY_CLIP | {"quick_gelu": True}},
            "says quick_gelu: True",
        ),
    ],
)
def test_the_card_of_an_image_tower_is_checked_as_strictly_as_others(checkpoints, change, told, tmp_path):
    card = tune_checkpoint(checkpoints["clip"], images(), tmp_path, "head", RECIPE)
    (tmp_path / "card.yaml").write_text(card.model_copy(update=change).to_yaml())
    with pytest.raises(InputError, match=told):
        load_classifier(tmp_path)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_tuned_clip_can_be_tuned_again(checkpoints, method, tmp_path):
    tune_checkpoint(checkpoints["clip"], images(), tmp_path / "once", "full", RECIPE)
    card = tune_checkpoint(tmp_path / "once", images(), tmp_path / "twice", method, RECIPE)
    assert card.training["tuned_from"] == "once" and card.head == "linear"
    once, twice = (load_classifier(tmp_path / name).logits(pixels()) for name in ("once", "twice"))
    assert not torch.allclose(once, twice, atol=1e-4)


def test_flyp_tunes_both_towers_and_stays_zero_shot(checkpoints, tmp_path):
    card = tune_checkpoint(checkpoints["clip"], images(), tmp_path / "out", "flyp", RECIPE)
    assert card.head == "zero-shot" and card.templates == CLIP.templates
    before, after = (load_classifier(place) for place in (checkpoints["clip"], tmp_path / "out"))
    for part in ("visual.conv1.weight", "token_embedding.weight", "logit_scale"):
        assert not torch.equal(before.module.state_dict()[part], after.module.state_dict()[part])


def test_an_interrupted_tuning_goes_on_and_a_finished_one_is_not_repeated(checkpoints, tmp_path, monkeypatch):
    whole = tune_checkpoint(checkpoints["vit"], images(), tmp_path / "whole", recipe=RECIPE)
    batch, calls = TuningData.batch, iter(range(1000))

    def interrupted(self, *given):
        if next(calls) == 3:
            raise KeyboardInterrupt
        return batch(self, *given)

    monkeypatch.setattr(TuningData, "batch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tune_checkpoint(checkpoints["vit"], images(), tmp_path / "out", recipe=RECIPE)
    assert not (tmp_path / "out" / "card.yaml").exists()
    resumed = tune_checkpoint(checkpoints["vit"], images(), tmp_path / "out", recipe=RECIPE)
    assert resumed.sha256 == whole.sha256
    assert next(calls) == 6  # one step after the state of step 2 was repeated, none of the first two
    assert pd.read_csv(tmp_path / "out" / "losses.csv")["step"].tolist() == [1, 2, 3, 4]
    tune_checkpoint(checkpoints["vit"], images(), tmp_path / "out", recipe=RECIPE)
    assert next(calls) == 7


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"recipe": replace(RECIPE, steps=5)}, "recipe.steps 4, now 5"),
        ({"method": "head"}, "method full, now head"),
        ({"images": images(9)}, "images "),
        ({"checkpoint": "clip"}, "checkpoint "),
    ],
)
def test_a_folder_made_from_something_else_is_refused(checkpoints, change, told, tmp_path):
    given = {"checkpoint": "vit", "images": images(), "method": "full", "recipe": RECIPE}
    for folder in ("finished", "begun"):
        tune_checkpoint(out=tmp_path / folder, **given | {"checkpoint": checkpoints["vit"]})
    (tmp_path / "begun" / "work").mkdir()
    (tmp_path / "begun" / "run.json").rename(tmp_path / "begun" / "work" / "run.json")
    (tmp_path / "begun" / "card.yaml").unlink()
    other = given | change
    for folder in ("finished", "begun"):
        with pytest.raises(InputError, match=told):
            tune_checkpoint(out=tmp_path / folder, **other | {"checkpoint": checkpoints[other["checkpoint"]]})


def test_a_checkpoint_is_not_overwritten(checkpoints):
    with pytest.raises(InputError, match="holds no run.json, so what is there was not made here"):
        tune_checkpoint(checkpoints["vit"], images(), checkpoints["clip"], recipe=RECIPE)


def test_classes_are_matched_by_name(checkpoints):
    card = load_card(checkpoints["vit"])
    some = from_arrays(pixels(4), [0, 1, 1, 0], ["sandal", "coat"])
    assert TuningData(some, card).labels.tolist() == [2, 0, 0, 2]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"images": images(names=("coat", "hat", "bag"))}, r"has no 'hat'; its 3 classes begin coat"),
        ({"images": images(2)}, "images: found 2 for 3 classes, expected at least one of each"),
        ({"method": "sgd"}, "method: found 'sgd', expected one of full, head"),
        ({"method": "flyp"}, "flyp contrasts images with captions"),
        ({"recipe": replace(RECIPE, steps=0)}, "steps: found 0, expected a number above 0"),
        ({"recipe": replace(RECIPE, batch_size=0)}, "batch_size: found 0, expected a number above 0"),
        ({"recipe": replace(RECIPE, micro_batch=0)}, "micro_batch: found 0, expected a number above 0"),
        ({"recipe": replace(RECIPE, learning_rate=float("nan"))}, "learning_rate: found nan, expected"),
        ({"recipe": replace(RECIPE, learning_rate=-1.0)}, "learning_rate: found -1.0, expected"),
        (
            {"recipe": replace(RECIPE, warmup_steps=4)},
            r"warmup_steps: found 4, expected .* less than steps \(4\)",
        ),
        ({"recipe": replace(RECIPE, seed=2**32)}, r"seed: found 4294967296, expected 0 to 2\*\*32 - 1"),
    ],
)
def test_bad_input_leaves_nothing_behind(checkpoints, given, told, tmp_path):
    with pytest.raises(InputError, match=told):
        tune_checkpoint(
            **{"checkpoint": checkpoints["vit"], "images": images(), "recipe": RECIPE} | given,
            out=tmp_path / "out",
        )
    assert not (tmp_path / "out").exists()


def test_weights_without_a_card_say_how_to_write_one(checkpoints, tmp_path):
    for place in (checkpoints["vit"] / "model.safetensors", tmp_path):
        with pytest.raises(InputError, match=r"has no card. Write card.yaml beside the weights"):
            tune_checkpoint(place, images(), tmp_path / "out", recipe=RECIPE)


def test_divergence_keeps_the_curve_and_names_the_folder(checkpoints, tmp_path):
    wild = replace(RECIPE, optimizer="sgd", learning_rate=1e30, clip_norm=1e30, steps=9, checkpoint_every=1)
    with pytest.raises(InputError, match=rf"training diverged.*the losses up to there are in {tmp_path}"):
        tune_checkpoint(checkpoints["vit"], images(), tmp_path / "out", recipe=wild)
    assert len(pd.read_csv(tmp_path / "out" / "work" / "losses.csv")) >= 1
    assert not (tmp_path / "out" / "card.yaml").exists()


def test_a_loss_that_rose_to_that_of_guessing_is_warned_of_on_the_card(checkpoints, tmp_path):
    wild = replace(RECIPE, learning_rate=3.0, steps=20)
    with pytest.warns(UserWarning, match="out: the loss rose from .* a uniform guess has 1.10: .* lower"):
        card = tune_checkpoint(checkpoints["vit"], images(), tmp_path / "out", recipe=wild)
    assert card.training["warning"].startswith("the loss rose from")
    calm = tune_checkpoint(checkpoints["vit"], images(), tmp_path / "calm", recipe=RECIPE)
    assert "warning" not in calm.training


@pytest.mark.parametrize(
    ("losses", "warned"),
    [
        ([1.3, 3.0, 2.34], True),  # no better than chance among ten classes
        ([1.3, 3.0, *[2.0] * 18], False),  # worse than at first, and better than chance
        ([2.4, 2.4, 2.5], False),  # it began so, and one batch differs from another
        ([5.0, 4.0, 3.0], False),
        ([1.3, *[1.0] * 18, 2.4], False),  # one bad batch at the end
    ],
)
def test_a_collapsed_checkpoint_is_worse_than_before_and_than_guessing(losses, warned):
    assert bool(collapsed(losses, np.log(10))) == warned


def test_the_curve_holds_what_was_watched(checkpoints, tmp_path):
    card = load_card(checkpoints["clip"])
    watch = accuracy_watch(card, images(9))
    tune_checkpoint(checkpoints["clip"], images(), tmp_path / "out", "full", RECIPE, watch, every=2)
    curve = pd.read_csv(tmp_path / "out" / "curve.csv")
    assert curve["step"].tolist() == [0, 2, 4]
    labels = np.arange(9) % 3
    for row, place in ((0, checkpoints["clip"]), (2, tmp_path / "out")):
        predicted = load_classifier(place).logits(pixels(9)).argmax(1).numpy()
        assert curve["accuracy"][row] == pytest.approx((predicted == labels).mean())


def test_the_source_of_images_stands_on_the_card(checkpoints, tmp_path):
    drawn = {"source": ["synthetic"] * 12, "generator": ["sd"] * 12}
    mixed = {"source": ["a"] * 12, "generator": ["sd", None] * 6}
    found = {"source": ["my/photos"] * 12}
    sets = {"synthetic": images(**drawn), "mixed": images(**mixed), "unknown": images(**found)}
    for kind, given in (sets | {"real": not_generated(sets["unknown"])}).items():
        card = tune_checkpoint(checkpoints["vit"], given, tmp_path / kind, "head", RECIPE)
        assert card.training["source"] == kind


# --- photographs on disk, as ImageNet has them ---


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Two classes of JPEGs of several sizes, one of them grey, as an ImageNet folder."""
    folder = tmp_path_factory.mktemp("imagenet")
    for number, name in enumerate(("n01440764", "n02102040")):
        (folder / name).mkdir()
        for index in range(5):
            size = (120 + 10 * index, 100 + 30 * number)
            shot = Image.fromarray(pixels(1, 160, index)[0]).resize(size)
            shot = shot.convert("L") if index == 3 else shot
            shot.save(folder / name / f"{name}_{index}.JPEG")
    return load_image_set(folder)


@pytest.mark.parametrize("micro", [None, 2])
def test_photographs_are_decoded_by_workers_and_resume_to_the_identical_result(
    photographs, micro, tmp_path, monkeypatch
):
    card = RESNET.model_copy(update={"class_names": ("n01440764", "n02102040", "other")})
    checkpoint = saved(tmp_path / "resnet", card)
    recipe = Recipe(4, 4, 1e-2, "sgd", 0.0, warmup_steps=0, checkpoint_every=2, micro_batch=micro)
    whole = tune_checkpoint(checkpoint, photographs, tmp_path / "whole", recipe=recipe)
    batch, calls = TuningData.batch, iter(range(1000))

    def interrupted(self, *given):
        if next(calls) == 3 * (2 if micro else 1):
            raise KeyboardInterrupt
        return batch(self, *given)

    monkeypatch.setattr(TuningData, "batch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tune_checkpoint(checkpoint, photographs, tmp_path / "out", recipe=recipe)
    resumed = tune_checkpoint(checkpoint, photographs, tmp_path / "out", recipe=recipe)
    assert resumed.sha256 == whole.sha256
    assert load_classifier(tmp_path / "out").logits(photographs["image"][:3]).shape == (3, 3)


def test_crops_are_those_of_the_card_and_follow_the_generator(photographs):
    card = RESNET.model_copy(update={"class_names": ("n01440764", "n02102040")})
    data = TuningData(photographs, card)
    rows = torch.tensor([0, 7, 3])
    one, again, other = (data.fetch(rows, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert one.pixels.shape == (3, 3, 96, 96) and one.pixels.dtype == torch.uint8
    assert one.labels.tolist() == [0, 1, 0]
    assert torch.equal(one.pixels, again.pixels) and not torch.equal(one.pixels, other.pixels)
    network = data.batch(one, torch.Generator(), torch.device("cpu"))[0]
    expected = (one.pixels[0, 1] / 255 - card.mean[1]) / card.std[1]
    torch.testing.assert_close(network[0, 1], expected)


def test_an_image_that_cannot_be_decoded_stops_the_run_with_its_name(photographs, tmp_path):
    copy = from_arrays(list(pixels(4, 100)), [0, 1, 0, 1], ["coat", "bag"])
    broken = copy.cast_column("image", copy.features["image"].__class__(decode=False)).map(
        lambda row, n: {"image": {"bytes": b"no image", "path": None}} if n == 2 else row, with_indices=True
    )
    checkpoint = saved(tmp_path / "resnet", RESNET)
    with pytest.raises(InputError, match=r"^image 00000002: cannot be decoded"):
        tune_checkpoint(checkpoint, broken, tmp_path / "out", recipe=RECIPE)
