"""A judge behind an OpenAI-compatible endpoint: GPT-4o, or a server of one's own (vLLM, llama.cpp)."""

import base64
import io
import os
from collections.abc import Sequence
from typing import Any

import openai
from PIL import Image

from synreal.errors import InputError

OPENAI_URL = "https://api.openai.com/v1"
MAX_TOKENS = 16  # the question wants one word
FILTERED = ("content_filter", "content_policy_violation")  # a refusal, told as an error


class Endpoint:
    """Asks `model` at `base_url` by chat completions, at temperature 0, with the image as a PNG data URL.

    key_variable: the environment variable that holds the key; None for a server that asks for none.
    timeout: seconds per try. retries: further tries, ever later, after a timeout, a lost connection, a rate
    limit or an error of the server; a wait that the server asks for is kept to.
    This is the one judge that uses the network, and only towards `base_url`.
    Raises InputError when the key is not set.
    """

    batch_size = 1

    def __init__(
        self,
        model: str,
        base_url: str = OPENAI_URL,
        key_variable: str | None = "OPENAI_API_KEY",
        workers: int = 8,
        timeout: float = 60,
        retries: int = 6,
    ):
        self.name = f"{model} at {base_url}"
        self.workers = workers
        self._model = model
        self._client = openai.OpenAI(
            base_url=base_url, api_key=_key(key_variable, base_url), timeout=timeout, max_retries=retries
        )

    def ask(self, images: Sequence[Image.Image], questions: Sequence[str]) -> list[str]:
        """The model's raw answers. Raises InputError when the endpoint gives none after all tries."""
        return [self._ask(*pair) for pair in zip(images, questions, strict=True)]

    def _ask(self, image: Image.Image, question: str) -> str:
        content: list[Any] = [
            {"type": "image_url", "image_url": {"url": data_url(image)}},
            {"type": "text", "text": question},
        ]
        try:
            reply = self._client.chat.completions.create(
                model=self._model,
                messages=[{"role": "user", "content": content}],
                temperature=0,
                max_tokens=MAX_TOKENS,
            )
        except openai.BadRequestError as error:
            if error.code in FILTERED:
                return error.message
            raise InputError(f"{self.name}: refuses the request ({error.message})") from error
        except openai.OpenAIError as error:
            raise InputError(self._why_silent(error)) from error
        return self._text(reply)

    def _text(self, reply: Any) -> str:
        choices = getattr(reply, "choices", None)
        if not choices:
            raise InputError(
                f"{self.name}: answered {str(reply)[:80]!r}, expected a chat completion; does base_url end "
                "as the server wants, usually in /v1?"
            )
        message = choices[0].message
        return message.content or message.refusal or ""

    def _why_silent(self, error: openai.OpenAIError) -> str:
        if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
            return f"{self.name}: {error}; see that the key is right and may use this model"
        if isinstance(error, openai.NotFoundError):
            return f"{self.name}: {error}; see that model and base_url are right"
        return (
            f"{self.name}: no answer in {self._client.max_retries + 1} tries ({error}); see that the server "
            "runs and base_url is right, or wait until the limit is lifted"
        )


def data_url(image: Image.Image) -> str:
    """The image as a data URL; PNG, so that the judge sees every pixel as it is."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _key(variable: str | None, base_url: str) -> str:
    if variable is None:
        return "none"  # the client insists on some key
    if not os.environ.get(variable):
        raise InputError(
            f"key_variable: the environment variable {variable} is not set; set it to the key for "
            f"{base_url}, or give key_variable=None for a server that asks for none"
        )
    return os.environ[variable]
