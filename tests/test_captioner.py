"""A tiny BLIP-2, saved as the hub has it, captions an image set; an interrupted run goes on."""

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    Blip2QFormerConfig,
    Blip2VisionConfig,
    BlipImageProcessor,
    OPTConfig,
    PreTrainedTokenizerFast,
)

from synreal.data.decode import from_arrays
from synreal.data.imageset import check_image_set
from synreal.errors import InputError
from synreal.generate import prompts
from synreal.generate.prompts import Captioner, add_captions

WORDS = ["<s>", "<pad>", "</s>", "<unk>", "a", "man", "holding", "fish", "on", "the", "red", "box", "<image>"]
PIXELS = np.random.default_rng(0).integers(0, 256, (7, 18, 16, 3), np.uint8)
PICTURES = [Image.fromarray(pixels) for pixels in PIXELS]


def tiny_processor():
    words = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = WhitespaceSplit()
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, **special)
    return Blip2Processor(BlipImageProcessor(size={"height": 16, "width": 16}), tokenizer, num_query_tokens=3)


def tiny_model():
    torch.manual_seed(0)
    parts = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Blip2Config(
        vision_config=Blip2VisionConfig(**parts, image_size=16, patch_size=8),
        qformer_config=Blip2QFormerConfig(
            **parts, encoder_hidden_size=16, vocab_size=10, cross_attention_frequency=1
        ),
        text_config=OPTConfig(
            vocab_size=len(WORDS), hidden_size=16, ffn_dim=16, num_hidden_layers=1, num_attention_heads=2,
            word_embed_proj_dim=16, max_position_embeddings=64,
            bos_token_id=0, pad_token_id=1, eos_token_id=2,
        ),
        num_query_tokens=3,
        image_token_index=WORDS.index("<image>"),
    )  # fmt: skip
    model = Blip2ForConditionalGeneration(config)
    with torch.no_grad():  # with the usual small weights it would hardly look at the image
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(0, 1.5)
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "blip2-tiny"
    tiny_model().save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("SYNREAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(prompts, "SHARD", 3)
    return tmp_path / "cache" / "captions"


@pytest.fixture
def blip(folder):
    return Captioner(folder, batch_size=2)


def image_set(pixels=PIXELS):
    return from_arrays(pixels, [0] * len(pixels), ["tench"])


class Counted:
    """Counts the images that the captioner sees, and stops at `until`."""

    def __init__(self, captioner, until=100):
        self.name, self.captioner, self.until, self.seen = captioner.name, captioner, until, 0

    def caption(self, images):
        self.seen += len(images)
        if self.seen > self.until:
            raise KeyboardInterrupt
        return self.captioner.caption(images)


@torch.inference_mode()
def test_captions_are_what_the_model_says_by_beam_search(folder, blip):
    model, processor = Blip2ForConditionalGeneration.from_pretrained(folder), tiny_processor()
    expected = []
    for picture in PICTURES:
        pixels = processor(images=picture, return_tensors="pt").pixel_values
        tokens = model.generate(pixels, num_beams=5, max_new_tokens=30)
        expected += [processor.decode(tokens[0], skip_special_tokens=True).strip()]
    assert blip.caption(PICTURES) == expected
    assert len(set(expected)) > 2 and set(" ".join(expected).split()) <= set(WORDS)


def test_captions_do_not_depend_on_the_batch(folder, blip):
    assert Captioner(folder, batch_size=7).caption(PICTURES) == blip.caption(PICTURES)


def test_the_set_gains_a_column_and_a_second_run_computes_nothing(blip):
    images = image_set()
    captioned = add_captions(images, blip)
    check_image_set(captioned, "captioned")
    assert captioned["caption"][:] == blip.caption(PICTURES)
    assert captioned.remove_columns("caption").features == images.features
    again = Counted(blip, until=0)
    assert add_captions(images, again)["caption"][:] == captioned["caption"][:] and again.seen == 0


def test_an_interrupted_run_goes_on(blip, cache):
    with pytest.raises(KeyboardInterrupt):
        add_captions(image_set(), Counted(blip, until=6))
    assert len(list(cache.glob("*.json"))) == 2
    (cache / "0.partial").write_text("a run that was killed while it wrote")
    rest = Counted(blip)
    assert add_captions(image_set(), rest)["caption"][:] == blip.caption(PICTURES)
    assert rest.seen == 1


def test_other_images_or_another_model_are_captioned_anew(blip):
    add_captions(image_set(), blip)
    changed = PIXELS.copy()
    changed[0] = 0
    other = Counted(blip)
    add_captions(image_set(changed), other)
    assert other.seen == 3
    other.name = "another model"
    add_captions(image_set(), other)
    assert other.seen == 3 + 7


def test_bad_input_is_refused(folder, blip, tmp_path):
    captioned = image_set().add_column("caption", ["a fish"] * 7)
    with pytest.raises(InputError, match="caption: the image set has this column already"):
        add_captions(captioned, blip)
    with pytest.raises(InputError, match="put the whole checkpoint there"):
        Captioner(tmp_path / "nowhere")
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    torch.save(load_file(folder / "model.safetensors"), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"no \*.safetensors; put the whole checkpoint there"):
        Captioner(tmp_path)
