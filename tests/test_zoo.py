"""The zoo: its making at toy size, its architecture, and the checkpoints that ship."""

import hashlib
import json
import re
from dataclasses import replace
from functools import partial

import numpy as np
import open_clip
import pytest
import timm
import torch

from synreal import zoo
from synreal.book.parameters import read_parameters
from synreal.data.decode import to_arrays
from synreal.data.factors import captions, class_caption, draw_factors
from synreal.data.imageset import load_image_set
from synreal.data.scenes import scene_arrays
from synreal.data.sprites import CLASS_NAMES
from synreal.data.worlds import open_pool
from synreal.generate.backends import load_pipeline, sample_images
from synreal.generate.sample import open_generator
from synreal.models import load_card, load_classifier, small
from synreal.paths import repository_root
from synreal.synbench.detect import load_detector
from synreal.train import detector, experiment, generator, recipes
from synreal.train.detector import DetectorRecipe, train_detector
from synreal.train.generator import train_autoencoder, train_denoiser
from synreal.train.grid import dino_pretrainings
from synreal.train.recipes import DinoRecipe, Recipe
from synreal.zoo import EVALUATED, PLANS, Plan, train_plan

GENERATORS = {"generator", "generator-epsilon", "generator-sing", "generator-cascade"}
OTHERS = GENERATORS | {"Judge", "detector", "dino", "synthetic"}
TINY = Recipe(steps=2, batch_size=16, warmup_steps=1)
SHIPPED = repository_root() / "zoo"
CARDS = sorted(path.parent.name for path in SHIPPED.glob("*/card.yaml"))
FIRST_CHAPTERS, ALL = 40_000_000, 60_000_000  # bytes that may ship: the models of 00 and 01, and everything
needs_zoo = pytest.mark.skipif(not CARDS, reason="zoo/ holds no card.yaml: `make zoo` has not finished one")


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """`make zoo` at toy size: its folder, and the folder of its cache."""
    root = tmp_path_factory.mktemp("toy")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SYNREAL_ZOO", str(root / "zoo"))
        patch.setenv("SYNREAL_CACHE", str(root / "cache"))
        shrink(patch)
        zoo.main()
    return root / "zoo", root / "cache" / "zoo"


def size_of(folder):
    """Bytes of its files, but for what Python compiles."""
    files = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return sum(path.stat().st_size for path in files)


def shrink(patch):
    """Two steps per model, few images, everything in this process."""
    patch.setattr(zoo, "train_autoencoder", partial(train_autoencoder, recipe=TINY))
    patch.setattr(zoo, "train_denoiser", lambda *args, folder, **_: train_denoiser(*args, TINY, folder))
    patch.setattr(zoo, "sample_set", partial(zoo.sample_set, shard=15))
    patch.setattr(zoo, "PLANS", (Plan("ViT", "Syn", 30), Plan("CLIP", "Syn", 30)))
    patch.setattr(zoo.os, "cpu_count", lambda: 1)
    for name, value in {"POOL": 60, "SYNTHETIC": 30, "SHIPPED": 20, "SMALL": (40, 50, 60)}.items():
        patch.setattr(zoo, name, value)
    for name, value in {"VIT": TINY, "CLIP": TINY, "EVALUATED": 80}.items():
        patch.setattr(zoo, name, value)
    for name, value in {"SCENES": 60, "JUDGE": TINY}.items():
        patch.setattr(zoo, name, value)
    small = DetectorRecipe(scenes=12, validation=6, epochs=1, batch_size=6)
    patch.setattr(zoo, "train_detector", partial(train_detector, recipe=small))
    patch.setattr(zoo, "EPSILON", TINY)
    patch.setattr(zoo, "DINO", replace(zoo.DINO, dino=DinoRecipe(2, 16, warmup_steps=1, prototypes=16)))
    patch.setattr(zoo, "DINO_SCENES", 30)
    for name in ("train_initial_step", "train_pixels", "train_upscaler"):
        patch.setattr(zoo, name, partial(getattr(generator, name), recipe=TINY))


def digests(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_everything_is_made_from_nothing(toy):
    made, _ = toy
    names = {path.name for path in made.iterdir()}
    assert {"generator", "ViT-Syn-0.03k", "CLIP-Syn-0.03k"} < names
    equal = {name for name in names if "-Real-" in name}
    assert {name.split("-")[0] for name in equal} == {"ViT", "CLIP"} and len(equal) == 2
    classifiers = {"ViT-Syn-0.03k", "CLIP-Syn-0.03k", *equal}
    assert names == classifiers | OTHERS
    for name in classifiers:
        card, source = load_card(made / name), "synthetic" if "-Syn-" in name else "real"
        assert card.name == card.role == name and card.training["source"] == source
        assert (card.training["steps"], card.training["images"]) == (2, float(name.split("-")[2][:-1]) * 1000)
        [expected] = card.expected
        assert (expected.image_set, expected.n) == ("scenes/val", 80)
        images, truth = scene_arrays("val", 80)
        found = (load_classifier(card).logits(images).argmax(1).numpy() == truth["label"]).mean()
        assert found == pytest.approx(expected.value, abs=1e-4)


def test_every_generator_draws_and_the_detector_looks(toy):
    made, _ = toy
    for name in GENERATORS:
        images = open_generator(made / name).load()(["a bag", "a coat"], [1, 2], 2.0, 3)
        assert images.shape == (2, 32, 32, 3) and images.dtype == np.uint8
    assert load_card(made / "Judge").training["images"] == 60
    assert load_detector(made / "detector").class_names == ("garment", "person")


def test_the_synthetic_images_are_drawn_for_captions_of_the_train_split(toy):
    made, work = toy
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch)
        ds = zoo.synthetic_images(made / "generator", work / "synthetic", 1)
    assert len(ds) == 30 and ds["label"][:] == [i % 10 for i in range(30)]
    for label, prompt in zip(ds["label"], ds["prompt"], strict=True):
        assert prompt.startswith(f"{CLASS_NAMES[label]}, ")
    assert to_arrays(ds)[0].shape == (30, 32, 32, 3)


def test_the_first_synthetic_images_ship_pixel_for_pixel(toy):
    made, work = toy
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch)
        drawn = zoo.synthetic_images(made / "generator", work / "synthetic", 1).select(range(20))
    shipped = load_image_set(made / "synthetic")
    assert shipped.column_names == drawn.column_names
    for drawn_part, shipped_part in zip(to_arrays(drawn), to_arrays(shipped), strict=True):
        assert np.array_equal(drawn_part, shipped_part)
    assert shipped.remove_columns("image")[:] == drawn.remove_columns("image")[:]


def refuse(*given, **more):
    raise AssertionError("a finished stage ran again")


def test_finished_stages_are_skipped(toy, monkeypatch):
    made, work = toy
    before = digests(made)
    monkeypatch.setenv("SYNREAL_ZOO", str(made))
    monkeypatch.setenv("SYNREAL_CACHE", str(work.parent))
    shrink(monkeypatch)
    for module, name in (
        (zoo, "train_autoencoder"),
        (zoo, "train_denoiser"),
        (zoo, "train_classifier"),
        (zoo, "train_clip"),
        (zoo, "train_classifier"),
        (detector, "write_boxes"),
        (zoo, "train_initial_step"),
        (zoo, "train_pixels"),
        (zoo, "train_upscaler"),
        (experiment, "dino"),
    ):
        monkeypatch.setattr(module, name, refuse)
    zoo.main()
    assert digests(made) == before


def test_the_real_model_nearest_to_the_synthetic_one_ships(tmp_path, monkeypatch):
    accuracies = {"ViT-Syn-24k": 0.5, 1000: 0.3, 1500: 0.35, 2000: 0.4, 3000: 0.47, 4000: 0.52, 6000: 0.6}
    tried, shipped = [], []

    def accuracy(plan, out, *rest):
        if plan.source == "Syn":
            return accuracies[plan.name]
        assert out == tmp_path / "work" / "tried"
        tried.append(plan.images)
        return accuracies[plan.images]

    monkeypatch.setattr(zoo, "_accuracy", accuracy)
    monkeypatch.setattr(zoo, "load_card", lambda folder: shipped.append(folder.name) or load_card(folder))
    monkeypatch.setattr(zoo, "save_checkpoint", refuse)
    with pytest.raises(ValueError, match="no card named"):
        zoo.match_accuracy("ViT", tmp_path / "zoo", tmp_path / "work")
    assert tried == [3000, 6000, 4000] and shipped == ["ViT-Real-4k"]


def test_a_finished_plan_is_read_and_not_trained(toy, monkeypatch):
    made, work = toy
    monkeypatch.setattr(zoo, "train_classifier", refuse)
    assert train_plan(Plan("ViT", "Syn", 30), made, made, work).name == "ViT-Syn-0.03k"


def test_plans_are_the_models_of_both_comparisons():
    assert Plan("CLIP", "Syn", 24_000).name == "CLIP-Syn-24k"
    assert Plan("ViT", "Real", 1500).name == "ViT-Real-1.5k"
    sizes = {(plan.kind, plan.source, plan.images) for plan in PLANS}
    for kind in ("ViT", "CLIP"):
        real = {images for k, source, images in sizes if (k, source) == (kind, "Real")}
        syn = {images for k, source, images in sizes if (k, source) == (kind, "Syn")}
        assert real & syn, f"{kind}: no pair of equal data"
        assert zoo.SYNTHETIC in syn, f"{kind}: match_accuracy takes this one as its target"


@torch.no_grad()
def test_timm_builds_the_stemmed_vit_by_name():
    model = timm.create_model(small.VIT_32, num_classes=7).eval()
    images = torch.rand(2, 3, 32, 32)
    assert model.patch_embed(images).shape == (2, 16, 128)
    assert model(images).shape == (2, 7) and model.forward_features(images).shape == (2, 17, 128)
    assert 0.7e6 < sum(p.numel() for p in model.parameters()) < 0.9e6
    assert small.VIT_32 in timm.list_models("vit_convstem*")
    assert timm.get_pretrained_cfg(small.VIT_32, allow_unregistered=False).num_classes == 10
    larger = timm.create_model(small.VIT_32, num_classes=7, img_size=64, depth=1)
    assert larger(torch.rand(1, 3, 64, 64)).shape == (1, 7) and len(larger.blocks) == 1


@torch.no_grad()
def test_open_clip_builds_a_clip_with_it():
    model = open_clip.CLIP(
        embed_dim=24,
        vision_cfg={
            "image_size": 32,
            "timm_model_name": small.VIT_32,
            "timm_pool": "",
            "timm_proj": "linear",
        },
        text_cfg={"context_length": 8, "vocab_size": 50, "width": 16, "heads": 2, "layers": 1},
    ).eval()
    image, text, scale = model(torch.rand(3, 3, 32, 32), torch.randint(50, (3, 8)))[:3]
    assert image.shape == text.shape == (3, 24) and scale > 1
    assert torch.allclose(image.norm(dim=1), torch.ones(3), atol=1e-5)
    assert any(isinstance(part, small.ConvStem) for part in model.modules())


@pytest.fixture(scope="session")
def validation_scenes():
    return scene_arrays("val", EVALUATED)


@needs_zoo
@pytest.mark.parametrize("name", CARDS)
def test_a_shipped_checkpoint_reaches_its_expected_accuracy(name, validation_scenes):
    images, truth = validation_scenes
    card = load_card(SHIPPED / name)
    assert card.name == name and card.sha256 and tuple(card.class_names) == CLASS_NAMES
    [expected] = card.expected
    assert (expected.image_set, expected.metric, expected.n) == ("scenes/val", "accuracy", len(images))
    accuracy = (load_classifier(card).logits(images).argmax(1).numpy() == truth["label"]).mean()
    assert abs(accuracy - expected.value) <= expected.tolerance
    assert accuracy > 0.3  # three times chance


@needs_zoo
def test_the_models_of_the_plan_ship():
    assert {plan.name for plan in PLANS} <= set(CARDS)
    assert {path.name for path in SHIPPED.iterdir()} >= OTHERS
    for kind in ("ViT", "CLIP"):
        sizes = {plan.name for plan in PLANS if (plan.kind, plan.source) == (kind, "Real")}
        assert {name for name in CARDS if name.startswith(f"{kind}-Real-")} - sizes, "no equal accuracy"


@needs_zoo
def test_dino_ships_as_the_chapter_asks_for_it():
    notebook = repository_root() / "notebooks" / "05_mixed.ipynb"
    given = {name: parameter.default for name, parameter in read_parameters(notebook).items()}
    pool = open_pool(given["real_set"], given["real_images"], given["synthetic_set"], given["size"])
    network = recipes.TINY[given["networks"][0]]
    made = dino_pretrainings(pool, network, range(given["seed"], given["seed"] + given["seeds"]))
    wanted = {run.shipped for runs in made.values() for run in runs}
    assert wanted == set((SHIPPED / "dino").glob("*.safetensors")) and len(wanted) == 6
    first = next(iter(wanted))
    about = json.loads(first.with_suffix(".json").read_text())
    assert about["steps"] == network.dino.steps and about["architecture"] == network.architecture
    features = experiment.outputs(experiment.trained(made["Real"][0]), pool.images[:4])
    assert torch.isfinite(features).all()


@needs_zoo
def test_what_ships_is_small():
    """The models of the first two chapters, and all models with the data inside the package."""
    models = [SHIPPED / name for name in ("generator", "synthetic", *CARDS)]
    first = sum(size_of(folder) for folder in models)
    assert first < FIRST_CHAPTERS, f"{first / 1e6:.1f} MB"
    everything = size_of(SHIPPED) + size_of(repository_root() / "lib")
    assert everything < ALL, f"{everything / 1e6:.1f} MB"


@needs_zoo
def test_the_shipped_generator_draws_the_class_that_is_asked_for(validation_scenes):
    asked = ["trouser", "sneaker", "bag"]
    prompts = [f"{name}, a photo of a {name}" for name in asked for _ in range(8)]
    drawn = sample_images(load_pipeline(SHIPPED / "generator"), prompts, list(range(8)) * 3, steps=10)
    per_class = drawn.reshape(3, 8, 32, 32, 3).astype(float)
    # The same seed with another prompt is another image.
    assert np.abs(per_class[0] - per_class[1]).mean((1, 2, 3)).min() > 5
    real = next(name for name in CARDS if name.startswith("ViT-Real-"))
    predicted = load_classifier(SHIPPED / real).logits(drawn).argmax(1).numpy()
    labels = np.repeat([CLASS_NAMES.index(name) for name in asked], 8)
    assert (predicted == labels).mean() > 0.6  # chance is 0.1


@needs_zoo
@pytest.mark.parametrize("name", sorted(GENERATORS))
def test_the_judge_recognises_what_each_shipped_generator_draws(name):
    prompts = [class_caption(label, f"a photo of a {CLASS_NAMES[label]}") for label in range(10)] * 6
    drawn = open_generator(SHIPPED / name).load()(prompts, range(60), 2.0, 10)
    seen = load_classifier(SHIPPED / "Judge").logits(drawn).argmax(1).numpy()
    assert (seen == np.tile(np.arange(10), 6)).mean() > 0.4  # chance is 0.1


@needs_zoo
def test_the_shipped_synthetic_images_are_what_the_generator_draws():
    images = load_image_set(SHIPPED / "synthetic")
    scenes = [draw_factors(i, "train") for i in range(len(images))]
    asked = [class_caption(s.label, text) for s, text in zip(scenes, captions(scenes, "train"), strict=True)]
    assert images["prompt"][:] == asked and images["seed"][:] == list(range(len(images)))
    first = images.select(range(4))
    drawn = sample_images(load_pipeline(SHIPPED / "generator"), first["prompt"][:], [0, 1, 2, 3], steps=10)
    # other processors round otherwise, and a few pixels of a sample may follow
    assert np.abs(drawn.astype(int) - to_arrays(first)[0]).mean() < 2


def test_the_readme_says_what_the_shipped_models_reach():
    text = (repository_root() / "zoo" / "README.md").read_text()
    rows = re.findall(r"^\| `(\S+)` \| (0\.\d{3}) \| 0\.\d{3} \|$", text, flags=re.MULTILINE)
    assert len(rows) == 8
    for name, ships in rows:
        [expected] = [e.value for e in load_card(name).expected if e.image_set == "scenes/val"]
        assert float(ships) == pytest.approx(expected, abs=6e-4), name
