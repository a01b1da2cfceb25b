"""A vision-language model behind an OpenAI-compatible endpoint, and every reply that can come back."""

import base64
import io
import json
import os
import re
import time
from collections.abc import Iterator, Sequence
from typing import Any, TypeGuard

import httpx2 as httpx  # the one that openai is built on
import openai
from PIL import Image

from synreal.errors import InputError

OPENAI_URL = "https://api.openai.com/v1"
MAX_TOKENS = 16  # the question wants one word
REASONING_TOKENS = 2_000  # what a model that thinks first may write before that word
FILTERED = ("content_filter", "content_policy_violation")  # a refusal, told as an error
LONGEST_REPLY = 1 << 20  # bytes
THOUGHTS = re.compile(r"<think(?:ing)?>.*?</think(?:ing)?>", re.DOTALL)


class Endpoint:
    """Asks `model` at `base_url` by chat completions, at temperature 0, with the image as a PNG data URL.

    key_variable: the environment variable that holds the key; None for a server that asks for none.
    timeout: seconds per try. retries: further tries, ever later, after a timeout, a lost connection, a rate
    limit or an error of the server; a wait that the server asks for is kept to.
    This is the one judge that uses the network, and only towards `base_url`: a redirection is not followed.
    A model that takes no temperature, or counts its tokens otherwise, is asked again without.
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
        self._model, self._key = model, _key(key_variable, base_url)
        self._options: dict[str, Any] = {"temperature": 0, "max_tokens": MAX_TOKENS}
        # the client's own, but for what it would follow, and for how much and how long it would read
        transport = _Bounded(timeout)
        client = openai.DefaultHttpxClient(follow_redirects=False, timeout=timeout, transport=transport)
        self._client = openai.OpenAI(
            base_url=base_url, api_key=self._key, max_retries=retries, timeout=timeout, http_client=client
        )

    def ask(self, images: Sequence[Image.Image], questions: Sequence[str]) -> list[str]:
        """The model's raw answers. Raises InputError when the endpoint gives none after all tries."""
        return [self._ask(*pair) for pair in zip(images, questions, strict=True)]

    def _ask(self, image: Image.Image, question: str) -> str:
        content: list[dict[str, Any]] = [
            {"type": "image_url", "image_url": {"url": data_url(image)}},
            {"type": "text", "text": question},
        ]
        for wait in (*(0.5 * 2**n for n in range(self._client.max_retries)), None):
            try:
                reply = self._reply(content)
            except openai.BadRequestError as error:
                if error.code in FILTERED:
                    return error.message
                raise self._problem(f"refuses the request ({error.message})") from None
            except (openai.OpenAIError, httpx.HTTPError) as error:
                raise self._problem(self._why_silent(error)) from None
            failure = reply.get("error") if isinstance(reply, dict) else None
            if not failure:
                return self._text(reply)
            if wait is None or not _passes(failure):
                break
            time.sleep(min(wait, 8.0))
        said = failure.get("message", failure) if isinstance(failure, dict) else failure
        raise self._problem(f"tells of an error under status 200: {str(said)[:200]}")

    def _reply(self, content: list[dict[str, Any]]) -> Any:
        """What the endpoint says, as JSON. Options that the model does not take are left out from then on."""
        while True:
            options = dict(self._options)
            try:
                raw = self._client.chat.completions.with_raw_response.create(
                    model=self._model,
                    messages=[{"role": "user", "content": content}],  # type: ignore[misc, list-item]
                    **options,
                )
            except openai.BadRequestError as error:
                if not self._give_up_option(error, options):
                    raise
                continue
            try:
                return json.loads(raw.content)
            except (ValueError, RecursionError):
                return raw.content.decode("utf-8", "replace")

    def _give_up_option(self, error: openai.BadRequestError, asked: dict[str, Any]) -> bool:
        """Whether another request may do: without the option, of those sent, that the error names."""
        named = f"{error.param} {error.message}"
        option = next((name for name in asked if re.search(rf"\b{name}\b", named)), None)
        if option is None:
            return False
        kept = {name: value for name, value in asked.items() if name != option}
        longer = {"max_completion_tokens": REASONING_TOKENS} if option == "max_tokens" else {}
        self._options = kept | longer
        return True

    def _text(self, reply: Any) -> str:
        """The answer in a reply, without the thoughts before it; "" where the model gave none."""
        choices: Any = reply.get("choices") if isinstance(reply, dict) else None
        message = choices[0].get("message") if choices and _is_list_of_dicts(choices) else None
        if not isinstance(message, dict):
            raise self._problem(
                f"answered {str(reply)[:80]!r}, expected a chat completion; does base_url end as the server "
                "wants, usually in /v1?"
            )
        content = message.get("content") or message.get("refusal") or ""
        if _is_list_of_dicts(content):  # in parts
            content = "".join(str(part.get("text") or part.get("refusal") or "") for part in content)
        return THOUGHTS.sub("", content).strip() if isinstance(content, str) else str(content)

    def _problem(self, what: str) -> InputError:
        """The error, without the key, which some servers repeat in theirs: reports are passed on."""
        return InputError(f"{self.name}: {what}".replace(self._key, "[key]"))

    def _why_silent(self, error: Exception) -> str:
        if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
            return f"{error}; see that the key is right and may use this model"
        if isinstance(error, openai.NotFoundError):
            return f"{error}; see that model and base_url are right"
        if isinstance(error, openai.APIStatusError) and 300 <= error.status_code < 400:
            return "points to another address, which is not followed; give that as base_url if you trust it"
        return (
            f"no answer in {self._client.max_retries + 1} tries ({error}); see that the server "
            "runs and base_url is right, or wait until the limit is lifted"
        )


def data_url(image: Image.Image) -> str:
    """The image as a data URL; PNG, so that the judge sees every pixel as it is."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _key(variable: str | None, base_url: str) -> str:
    if variable is None:
        return "no-key-needed"  # the client insists on some key
    if not os.environ.get(variable):
        raise InputError(
            f"key_variable: the environment variable {variable} is not set; set it to the key for "
            f"{base_url}, or give key_variable=None for a server that asks for none"
        )
    return os.environ[variable]


def _passes(failure: Any) -> bool:
    """Whether an error told under status 200 is one that a later try may not meet."""
    code = str(failure.get("code") or failure.get("type") or "") if isinstance(failure, dict) else ""
    return bool(re.fullmatch(r"5\d\d|429|408|.*(overloaded|rate_limit|timeout|unavailable).*", code))


def _is_list_of_dicts(value: Any) -> TypeGuard[list[dict[str, Any]]]:
    return isinstance(value, list) and all(isinstance(part, dict) for part in value)


class _Bounded(httpx.HTTPTransport):
    """A transport whose replies end after so many bytes and seconds, however a server trickles them."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        response = super().handle_request(request)
        response.stream = _BoundedStream(response.stream, self._seconds, request)  # type: ignore[arg-type]
        return response


class _BoundedStream(httpx.SyncByteStream):
    def __init__(self, stream: httpx.SyncByteStream, seconds: float, request: httpx.Request) -> None:
        self._stream, self._request = stream, request
        self._end = time.monotonic() + seconds

    def __iter__(self) -> Iterator[bytes]:
        size = 0
        for block in self._stream:
            size += len(block)
            if size > LONGEST_REPLY:
                raise httpx.ReadError(
                    f"the reply is longer than {LONGEST_REPLY:,} bytes", request=self._request
                )
            if time.monotonic() > self._end:
                raise httpx.ReadTimeout("the reply did not end in time", request=self._request)
            yield block

    def close(self) -> None:
        self._stream.close()
