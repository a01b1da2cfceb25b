"""SynRep's published checkpoints, on random state dicts with their keys."""

import argparse

import numpy as np
import open_clip
import pytest
import timm
import torch
from PIL import Image

from synreal.errors import InputError
from synreal.models import list_cards, load_card, load_classifier
from synreal.models.card import PACKAGED_CARDS

PUBLISHED = {
    "ViT-Real-0.25M": 0.5821, "ViT-Real-1M": 0.7864, "ViT-Syn-1M": 0.5251, "ViT-Syn-2M": 0.5872,
    "CLIP-Real-64M": 0.5512, "CLIP-Real-371M": 0.6677, "CLIP-Syn-371M": 0.5568,
}  # fmt: skip
SMALL_VIT = {"embed_dim": 32, "depth": 2, "num_heads": 2}
SMALL_CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 224, "patch_size": 16, "width": 32, "layers": 2, "head_width": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
}


def layer_norm(name, width):
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def linear(name, inputs, outputs):
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def published_vit(width, depth, classes=1000):
    """Names and shapes of the published ViT at patch 16 and 224 pixels."""
    shapes = {"cls_token": (1, 1, width), "pos_embed": (1, 197, width), "patch_embed.proj.bias": (width,)}
    shapes |= {"patch_embed.proj.weight": (width, 3, 16, 16)} | layer_norm("norm", width)
    shapes |= linear("head", width, classes)
    for index in range(depth):
        block = f"blocks.{index}"
        shapes |= layer_norm(f"{block}.norm1", width) | layer_norm(f"{block}.norm2", width)
        shapes |= linear(f"{block}.attn.qkv", width, 3 * width) | linear(f"{block}.attn.proj", width, width)
        shapes |= linear(f"{block}.mlp.fc1", width, 4 * width) | linear(f"{block}.mlp.fc2", 4 * width, width)
    return shapes


def transformer(prefix, width, depth):
    shapes = {}
    for index in range(depth):
        block = f"{prefix}transformer.resblocks.{index}"
        shapes |= layer_norm(f"{block}.ln_1", width) | layer_norm(f"{block}.ln_2", width)
        shapes |= {
            f"{block}.attn.in_proj_weight": (3 * width, width),
            f"{block}.attn.in_proj_bias": (3 * width,),
        }
        shapes |= linear(f"{block}.attn.out_proj", width, width)
        shapes |= linear(f"{block}.mlp.c_fc", width, 4 * width) | linear(
            f"{block}.mlp.c_proj", 4 * width, width
        )
    return shapes


def published_clip(embed, vision, text, depth):
    """Names and shapes of the published CLIP at patch 16, 224 pixels and 77 tokens."""
    shapes = {
        "logit_scale": (), "positional_embedding": (77, text), "text_projection": (text, embed),
        "token_embedding.weight": (49408, text), "visual.class_embedding": (vision,),
        "visual.positional_embedding": (197, vision), "visual.proj": (vision, embed),
        "visual.conv1.weight": (vision, 3, 16, 16),
    }  # fmt: skip
    for name, width in (("ln_final", text), ("visual.ln_pre", vision), ("visual.ln_post", vision)):
        shapes |= layer_norm(name, width)
    return shapes | transformer("", text, depth) | transformer("visual.", vision, depth)


def random_state(shapes):
    generator = torch.Generator().manual_seed(0)
    return {name: 0.05 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def pictures(count=2):
    pixels = np.random.default_rng(0).integers(0, 256, (count, 260, 300, 3), dtype=np.uint8)
    return [Image.fromarray(picture // (index + 1)) for index, picture in enumerate(pixels)]


def small(name, folder, monkeypatch):
    """The published card with a smaller network and its weights' folder set; returns the card."""
    monkeypatch.setenv("SYNREAL_SYNREP_DIR", str(folder))
    card = load_card(name)
    arguments = card.architecture_args | SMALL_VIT if card.library == "timm" else SMALL_CLIP
    return card.model_copy(update={"architecture_args": arguments})


@pytest.fixture
def vit(tmp_path, monkeypatch):
    return small("ViT-Syn-1M", tmp_path, monkeypatch)


def test_every_published_card_holds_its_paper_accuracy():
    packaged = {name: file for name, file in list_cards().items() if file.parent == PACKAGED_CARDS}
    assert all(load_card(file).name == name for name, file in packaged.items())
    assert {name: load_card(packaged[name]).expected[0].value for name in PUBLISHED} == PUBLISHED


def test_published_preparation():
    vit, clip = load_card("ViT-Real-1M"), load_card("CLIP-Real-64M")
    assert (vit.resize, vit.image_size, vit.crop, vit.interpolation) == (256, 224, "centre", "bilinear")
    assert vit.mean == vit.std == (0.5, 0.5, 0.5)
    assert (clip.resize, clip.image_size, clip.crop, clip.interpolation) == (224, 224, "centre", "bicubic")
    assert clip.mean == open_clip.OPENAI_DATASET_MEAN
    assert clip.std == open_clip.OPENAI_DATASET_STD
    assert len(clip.templates) == 80
    assert len(clip.class_names) == 1000


@pytest.mark.parametrize("name", [name for name in PUBLISHED if name.startswith("ViT")])
def test_published_vit_layout_is_what_the_card_builds(name):
    card = load_card(name)
    with torch.device("meta"):
        module = timm.create_model(card.architecture, num_classes=1000, **card.architecture_args)
    assert {key: tuple(value.shape) for key, value in module.state_dict().items()} == published_vit(768, 12)
    assert module.norm.eps == 1e-6
    assert module.global_pool == "token"


def test_published_clip_layout_is_what_the_card_builds():
    config = open_clip.get_model_config(load_card("CLIP-Syn-371M").architecture)
    with torch.device("meta"):
        module = open_clip.CLIP(**config, quick_gelu=True)
    wanted = published_clip(512, 768, 512, 12)
    assert {key: tuple(value.shape) for key, value in module.state_dict().items()} == wanted


@pytest.mark.parametrize("wrap", ["bare", "model", "state_dict", "parallel"])
def test_vit_loads_whatever_its_state_dict_is_wrapped_in(vit, tmp_path, wrap):
    state = random_state(published_vit(32, 2))
    if wrap == "parallel":
        content = {"epoch": 9, "state_dict": {f"module.{name}": value for name, value in state.items()}}
    else:
        content = state if wrap == "bare" else {wrap: state, "epoch": 9}
    torch.save(content, tmp_path / "vit-syn-1m.pth")
    module = timm.create_model("vit_base_patch16_224", num_classes=1000, **SMALL_VIT).eval()
    module.load_state_dict(state)
    classifier = load_classifier(vit)
    with torch.no_grad():
        wanted = module(classifier.preprocess(pictures()))
    torch.testing.assert_close(classifier.logits(pictures()), wanted)
    assert wanted.std() > 0.01


@torch.no_grad()
def test_clip_loads_and_equals_open_clip(tmp_path, monkeypatch):
    card = small("CLIP-Syn-371M", tmp_path, monkeypatch)
    state = random_state(published_clip(16, 32, 16, 2))
    torch.save(state, tmp_path / card.weights)
    module = open_clip.CLIP(**SMALL_CLIP, quick_gelu=True).eval()
    module.load_state_dict(state)
    words = ["tench", "missile"]
    rows = open_clip.build_zero_shot_classifier(
        module, open_clip.SimpleTokenizer(), words, open_clip.OPENAI_IMAGENET_TEMPLATES
    )
    classifier = load_classifier(card, class_names=[card.class_names[0], card.class_names[744]])
    image = module.encode_image(classifier.preprocess(pictures()), normalize=True)
    torch.testing.assert_close(classifier.logits(pictures()), module.logit_scale.exp() * image @ rows)


def test_a_missing_variable_or_file_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.delenv("SYNREAL_SYNREP_DIR", raising=False)
    card = load_card("ViT-Syn-2M")
    with pytest.raises(
        InputError, match=r"set .* SYNREAL_SYNREP_DIR to the folder that holds vit-syn-2m.pth"
    ):
        load_classifier(card)
    monkeypatch.setenv("SYNREAL_SYNREP_DIR", str(tmp_path))
    with pytest.raises(InputError, match=r"no weights file vit-syn-2m.pth in .*published at .*syn-rep-learn"):
        load_classifier(card)


def test_wrong_keys_are_listed(vit, tmp_path):
    state = random_state(published_vit(32, 2))
    torch.save({f"backbone.{name}": value for name, value in state.items()}, tmp_path / vit.weights)
    with pytest.raises(
        InputError, match=r"32 missing: blocks.0.attn.proj.bias.*32 unexpected: backbone.blocks"
    ):
        load_classifier(vit)


def test_a_wrong_hash_or_activation_stops(vit, tmp_path):
    torch.save(random_state(published_vit(32, 2)), tmp_path / vit.weights)
    with pytest.raises(InputError, match=f"says {'0' * 64}; fetch the file again"):
        load_classifier(vit.model_copy(update={"sha256": "0" * 64}))
    with pytest.raises(
        InputError, match="activation is quick_gelu, but vit_base_patch16_224 as built uses gelu"
    ):
        load_classifier(vit.model_copy(update={"activation": "quick_gelu"}))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (
            {"model": {"norm.bias": torch.zeros(2)}, "args": argparse.Namespace(lr=1)},
            "holds more than tensors",
        ),
        ([torch.zeros(2)], "found list, expected a state dict"),
        ({}, "expected a state dict"),
        ({"epoch": 3, "loss": 0.5}, "not a state dict: epoch, loss hold no tensors"),
        (
            {"model": {"a": torch.zeros(1)}, "state_dict": {"a": torch.ones(1)}},
            "holds state_dict and model",
        ),
        ({"module.a": torch.zeros(1), "b": torch.zeros(1)}, "1 of 2 keys begin with 'module.'"),
    ],
)
def test_files_that_are_no_plain_state_dict_are_refused(vit, tmp_path, content, reason):
    torch.save(content, tmp_path / vit.weights)
    with pytest.raises(InputError, match=reason):
        load_classifier(vit)


def test_a_file_that_is_no_pytorch_file_is_refused(vit, tmp_path):
    (tmp_path / vit.weights).write_bytes(b"<html>quota exceeded</html>")
    with pytest.raises(
        InputError, match=r"vit-syn-1m.pth: (not a readable PyTorch file|holds more than tensors)"
    ):
        load_classifier(vit)


def test_the_published_vit_at_full_size(tmp_path, monkeypatch):
    monkeypatch.setenv("SYNREAL_SYNREP_DIR", str(tmp_path))
    state = random_state(published_vit(768, 12))
    torch.save(state, tmp_path / "vit-real-1m.pth")
    hundred = load_card("ViT-Real-1M").class_names[:100]
    classifier = load_classifier("ViT-Real-1M", class_names=hundred)
    assert classifier.logits(pictures(1)).shape == (1, 100)
    assert torch.equal(classifier.module.head.weight, state["head.weight"])


@pytest.mark.parametrize(
    ("name", "tag"), [("CLIP-B16-LAION2B", "laion2b_s34b_b88k"), ("CLIP-L14-LAION2B", "laion2b_s32b_b82k")]
)
def test_the_cards_of_laion2b_say_what_open_clip_says(name, tag):
    card = load_card(name)
    published = open_clip.get_pretrained_cfg(card.architecture, tag)
    assert (card.mean, card.std) == (published["mean"], published["std"])
    assert card.interpolation == published["interpolation"] and card.activation == "gelu"
    assert published["hf_hub"].strip("/") in card.published_at
    assert card.image_size == open_clip.get_model_config(card.architecture)["vision_cfg"]["image_size"]
