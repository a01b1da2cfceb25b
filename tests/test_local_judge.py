"""A tiny LLaVA, saved as the hub has it, asked in batches."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from synreal.data.decode import from_arrays
from synreal.errors import InputError
from synreal.synbench.vlm import PERSON_BLOCKING, AnswerCache, LocalJudge, PersonBlocking

TEMPLATE = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image> {% else %}{{ part['text'] }} {% endif %}"
    "{% endfor %}{% endfor %}ASSISTANT:"
)
QUESTION = PERSON_BLOCKING.format(class_name="tench")
WORDS = [
    "<pad>",
    "<s>",
    "</s>",
    "<unk>",
    "<image>",
    "ASSISTANT:",
    "yes",
    "no",
    *sorted(set(QUESTION.split())),
]
BRIGHT, DARK = (Image.new("RGB", (20, 16), (level,) * 3) for level in (250, 5))


def tiny_processor():
    words = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = WhitespaceSplit()
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, **special, additional_special_tokens=["<image>"]
    )
    side = {"height": 16, "width": 16}
    return LlavaProcessor(
        image_processor=CLIPImageProcessor(size={"shortest_edge": 16}, crop_size=side),
        tokenizer=tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )


def tiny_model(seed=0):
    torch.manual_seed(seed)
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        image_size=16, patch_size=8,
    )  # fmt: skip
    text = LlamaConfig(
        vocab_size=len(WORDS), hidden_size=32, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, pad_token_id=0, bos_token_id=1, eos_token_id=2, initializer_range=0.3,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=WORDS.index("<image>"), image_seq_length=4
    )
    return LlavaForConditionalGeneration(config)


def teach(model, processor):
    """Answers "yes" to bright images, "no" to dark ones, and then stops."""
    prompt = f"<image> {QUESTION} ASSISTANT:"
    inputs = processor(
        images=[BRIGHT, DARK], text=[f"{prompt} yes </s>", f"{prompt} no </s>"], return_tensors="pt"
    )
    labels = torch.full_like(inputs.input_ids, -100)
    labels[:, -2:] = inputs.input_ids[:, -2:]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(40):
        model(**inputs, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """(an untaught checkpoint, which babbles; a taught one)."""
    folder, processor, model = tmp_path_factory.mktemp("judges"), tiny_processor(), tiny_model()
    for name in ("untaught", "taught"):
        if name == "taught":
            teach(model, processor)
        model.save_pretrained(folder / name)
        processor.save_pretrained(folder / name)
    return folder / "untaught", folder / "taught"


def noise(count, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (count, 16, 16, 3), np.uint8)
    return [Image.fromarray(image) for image in pixels]


def test_a_taught_judge_measures_person_blocking(folders, tmp_path):
    judge = LocalJudge(folders[1], batch_size=2)
    pixels = np.stack([np.full((16, 20, 3), level, np.uint8) for level in (250, 5, 249, 250)])
    images = from_arrays(pixels, [0] * 4, ["tench"])
    persons = pd.Series([True, True, True, False], index=images["id"][:])
    measure = PersonBlocking(judge, lambda _: persons, AnswerCache(tmp_path / "answers.sqlite"))
    assert measure.values(images).tolist() == [1, 0, 1, 0]


def test_answers_do_not_depend_on_the_batch(folders):
    judge = LocalJudge(folders[0])
    images = [*noise(4), BRIGHT.resize((40, 31)), DARK]
    questions = [QUESTION, "yes no", "Is part of the image", QUESTION, "no", "human body"]
    together = judge.ask(images, questions)
    assert len(set(together)) > 2  # something to confuse
    alone = [judge.ask([image], [question])[0] for image, question in zip(images, questions, strict=True)]
    assert together == alone
    assert not any("ASSISTANT:" in answer and QUESTION in answer for answer in together)


def test_the_name_tells_the_weights(folders):
    names = [LocalJudge(folder).name for folder in (folders[0], folders[1], folders[0])]
    assert names[0] == names[2] != names[1]
    assert names[0].startswith("untaught-") and names[1].startswith("taught-")


def test_a_checkpoint_that_is_not_whole_is_refused(folders, tmp_path):
    with pytest.raises(
        InputError, match=r"no config.json and no \*.safetensors; put the whole checkpoint there"
    ):
        LocalJudge(tmp_path)
    model = tiny_model()
    model.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="transformers cannot load it as AutoModelForImageTextToText"):
        LocalJudge(tmp_path)  # no processor
    tiny_processor().save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    lacking = next(name for name in state if "mlp" in name)
    save_file(
        {k: v for k, v in state.items() if k != lacking}, tmp_path / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(InputError, match="1 weights of LlavaForConditionalGeneration are missing, the first"):
        LocalJudge(tmp_path)


def test_a_model_that_follows_no_instructions_is_refused(tmp_path):
    processor = tiny_processor()
    processor.chat_template = None
    tiny_model().save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="no chat template; use a model tuned for conversation"):
        LocalJudge(tmp_path)
