"""A judge on this machine: any vision-language model of transformers that has a chat template."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText

from synreal.errors import InputError
from synreal.generate.local_model import checkpoint_name, load_local

MAX_NEW_TOKENS = 8  # the question wants one word


class LocalJudge:
    """A checkpoint in a local folder, such as LLaVA or Qwen2-VL-Instruct saved from the hub.

    On a GPU it computes in the precision that the checkpoint was saved in. Raises InputError as `load_local`,
    and for a model without a chat template, which does not follow instructions.
    """

    workers = 1

    def __init__(self, folder: str | Path, device: str | torch.device = "cpu", batch_size: int = 16):
        self._processor, self._model = load_local(folder, AutoModelForImageTextToText, device, "auto")
        if getattr(self._processor, "chat_template", None) is None:
            raise InputError(
                f"{folder}: the processor has no chat template; use a model tuned for conversation, such as "
                "LLaVA or Qwen2-VL-Instruct"
            )
        self._processor.tokenizer.padding_side = "left"  # answers begin where the prompts end
        self.name = checkpoint_name(folder)
        self.batch_size = batch_size

    @torch.inference_mode()
    def ask(self, images: Sequence[Image.Image], questions: Sequence[str]) -> list[str]:
        """The likeliest answers, in one batch."""
        chats = [_chat(image, question) for image, question in zip(images, questions, strict=True)]
        inputs = self._processor.apply_chat_template(
            chats,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True},
        ).to(self._model.device, self._model.dtype)
        tokens = self._model.generate(**inputs, do_sample=False, max_new_tokens=MAX_NEW_TOKENS)
        return self._processor.batch_decode(tokens[:, inputs.input_ids.shape[1] :], skip_special_tokens=True)


def _chat(image: Image.Image, question: str) -> list[dict]:
    content = [{"type": "image", "image": image}, {"type": "text", "text": question}]
    return [{"role": "user", "content": content}]
