"""The endpoint speaks to a real server, in this process, that answers, refuses, limits and falls silent."""

import base64
import io
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image

from synreal.data.decode import from_arrays
from synreal.errors import InputError
from synreal.synbench.endpoint import Endpoint
from synreal.synbench.vlm import AnswerCache, ask_all

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 7, 3), np.uint8)
PICTURE = Image.fromarray(PIXELS)


def chat(content, refusal=None):
    message = {"role": "assistant", "content": content, "refusal": refusal}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    return 200, {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}


def failure(status, message="sorry", code=None):
    return status, {"error": {"message": message, "type": "error", "code": code}}


class Server(ThreadingHTTPServer):
    """Replies with what `script` holds, in turn, then with `always`; a callable reply is called first."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.script, self.always, self.requests = [], chat("Yes."), []
        self.closing, self.lock = threading.Event(), threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request, client_address):
        """A client that gave up waiting is part of the tests."""


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            server.requests.append((self.path, self.headers["Authorization"], body))
            reply = server.script.pop(0) if server.script else server.always
        status, payload = reply() if callable(reply) else reply
        page = payload.encode() if isinstance(payload, str) else json.dumps(payload).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/html" if isinstance(payload, str) else "application/json")
        self.send_header("Content-Length", str(len(page)))
        self.send_header("retry-after-ms", "1")
        self.end_headers()
        self.wfile.write(page)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("JUDGE_KEY", "secret")
    with Server() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.closing.set()
        server.shutdown()


def endpoint(server, **changes):
    return Endpoint(
        "gpt-4o", **({"base_url": server.url, "key_variable": "JUDGE_KEY", "retries": 2} | changes)
    )


def test_what_is_sent(server):
    assert endpoint(server).ask([PICTURE], ["Is it?"]) == ["Yes."]
    [(path, key, body)] = server.requests
    assert (path, key) == ("/v1/chat/completions", "Bearer secret")
    assert (body["model"], body["temperature"]) == ("gpt-4o", 0)
    [message] = body["messages"]
    image, text = message["content"]
    assert message["role"] == "user" and text == {"type": "text", "text": "Is it?"}
    kind, _, data = image["image_url"]["url"].partition(";base64,")
    assert kind == "data:image/png"
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))), PIXELS)


def test_answers_come_back_raw_and_in_order(server):
    server.script = [chat("yes"), chat("No."), chat(None, "I can't help with that."), chat(None)]
    assert endpoint(server).ask([PICTURE] * 4, list("abcd")) == ["yes", "No.", "I can't help with that.", ""]


def test_rate_limits_and_failures_of_the_server_are_tried_again(server):
    server.script = [failure(429), failure(500), chat("no")]
    assert endpoint(server).ask([PICTURE], ["q"]) == ["no"]
    assert len(server.requests) == 3


def test_a_timeout_is_tried_again(server):
    server.script = [lambda: server.closing.wait() and chat("too late"), chat("no")]
    assert endpoint(server, timeout=1, retries=1).ask([PICTURE], ["q"]) == ["no"]
    assert len(server.requests) == 2


@pytest.mark.parametrize("status", [429, 503])
def test_a_server_that_stays_down_is_told_of(server, status):
    server.always = failure(status, "come back tomorrow")
    with pytest.raises(InputError, match="gpt-4o at http://127.*: no answer in 3 tries .*come back tomorrow"):
        endpoint(server).ask([PICTURE], ["q"])
    assert len(server.requests) == 3


def test_nobody_there(server):
    server.shutdown()
    server.server_close()
    with pytest.raises(InputError, match="no answer in 1 tries .Connection error.*see that the server runs"):
        endpoint(server, retries=0).ask([PICTURE], ["q"])


def test_what_was_answered_before_the_server_went_down_is_kept(server, tmp_path):
    images = from_arrays(np.stack([PIXELS + i for i in range(6)]), [0] * 6, ["tench"])
    cache, questions = AnswerCache(tmp_path / "answers.sqlite"), [f"q{i}" for i in range(6)]
    server.script, server.always = [chat("yes"), chat("no"), chat("yes")], failure(503)
    with pytest.raises(InputError, match="no answer in 3 tries.*kept in .*answers.sqlite; run again"):
        ask_all(endpoint(server, workers=2), images, questions, cache)
    server.requests.clear()
    server.always = chat("no")
    answers = ask_all(endpoint(server, workers=2), images, questions, cache)
    assert sorted(answers) == ["no", "no", "no", "no", "yes", "yes"]
    assert len(server.requests) == 3


def test_questions_are_asked_side_by_side(server, tmp_path):
    together = threading.Barrier(4)  # broken, and so the test fails, unless four requests wait at once

    def wait():
        together.wait(timeout=60)
        return chat("yes")

    server.always = wait
    images = from_arrays(np.stack([PIXELS + i for i in range(4)]), [0] * 4, ["tench"])
    answers = ask_all(endpoint(server, workers=4), images, ["q"] * 4, AnswerCache(tmp_path / "a.sqlite"))
    assert answers == ["yes"] * 4


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        (failure(401, "no such key"), "no such key.*see that the key is right"),
        (failure(403, "not yours"), "not yours.*may use this model"),
        (failure(404, "no such model"), "no such model.*see that model and base_url are right"),
        (failure(400, "too large"), "refuses the request .*too large"),
        ((200, "<html>welcome</html>"), "'<html>welcome.*expected a chat completion; does base_url end"),
        ((200, {"hello": "world"}), "expected a chat completion"),
    ],
)
def test_what_cannot_get_better_is_told_at_once(server, reply, told):
    server.always = reply
    with pytest.raises(InputError, match=told):
        endpoint(server).ask([PICTURE], ["q"])
    assert len(server.requests) == 1


@pytest.mark.parametrize("code", ["content_filter", "content_policy_violation"])
def test_a_filtered_image_is_a_refusal(server, code):
    server.script = [failure(400, "The image was filtered", code)]
    [answer, other] = endpoint(server).ask([PICTURE] * 2, ["q", "q"])
    assert "filtered" in answer and other == "Yes."


def test_the_key_comes_from_the_environment(server, monkeypatch):
    monkeypatch.delenv("JUDGE_KEY")
    with pytest.raises(
        InputError, match="environment variable JUDGE_KEY is not set; set it to the key for http"
    ):
        endpoint(server)
    assert endpoint(server, key_variable=None).ask([PICTURE], ["q"]) == ["Yes."]


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        (chat([{"type": "text", "text": "Yes"}]), "Yes"),
        (chat("<think>Is it? No, yes.</think>\n\nNo."), "No."),
        (chat(["yes"]), "['yes']"),
    ],
)
def test_answers_come_in_parts_and_after_thoughts(server, reply, answer):
    server.always = reply
    assert endpoint(server).ask([PICTURE], ["q"]) == [answer]


def with_choices(choices):
    return 200, {"id": "1", "choices": choices}


@pytest.mark.parametrize(
    "reply",
    [
        (200, ""), (200, '{"choices": ['), (200, "[" * 100_000), (200, "\ufffd"), (200, "NaN"), (200, "3"),
        with_choices(None), with_choices([]), with_choices(3), with_choices([{}]), with_choices(["x"]),
        with_choices([{"message": None}]), with_choices([{"message": "yes"}]),
    ],
)  # fmt: skip
def test_replies_that_are_no_completion_are_told_of(server, reply):
    server.always = reply
    with pytest.raises(InputError, match=r"gpt-4o at http.*expected a chat completion"):
        endpoint(server).ask([PICTURE], ["q"])


def test_an_error_under_status_200_is_tried_again_and_told_in_the_servers_words(server, monkeypatch):
    monkeypatch.setattr("synreal.synbench.endpoint.time.sleep", lambda _: None)
    busy = 200, {"error": {"message": "upstream overloaded", "code": 503}}
    server.script = [busy, busy]
    assert endpoint(server).ask([PICTURE], ["q"]) == ["Yes."]
    server.always = busy
    with pytest.raises(InputError, match="an error under status 200: upstream overloaded"):
        endpoint(server).ask([PICTURE], ["q"])
    server.always = 200, {"error": {"message": "no such model", "code": 404}}
    server.requests.clear()
    with pytest.raises(InputError, match="no such model"):
        endpoint(server).ask([PICTURE], ["q"])
    assert len(server.requests) == 1


def test_a_model_that_takes_no_temperature_is_asked_without(server):
    def choosy():
        body = server.requests[-1][2]
        for option in ("max_tokens", "temperature"):
            if option in body:
                return failure(400, f"Unsupported parameter: '{option}' is not supported with this model.")
        return chat("no")

    server.always = choosy
    assert endpoint(server).ask([PICTURE, PICTURE], ["q", "q"]) == ["no", "no"]
    assert len(server.requests) == 4  # what was learned is kept
    assert server.requests[-1][2]["max_completion_tokens"] > 100


@pytest.mark.parametrize("status", [400, 401, 403, 404, 500])
def test_a_key_that_the_server_repeats_is_not_passed_on(server, status):
    server.always = failure(status, "bad key Bearer secret")
    with pytest.raises(InputError) as refused:
        endpoint(server, retries=0).ask([PICTURE], ["q"])
    assert "secret" not in str(refused.value) and "[key]" in str(refused.value)


def test_a_reply_without_end_is_given_up(server, monkeypatch):
    monkeypatch.setattr("synreal.synbench.endpoint.LONGEST_REPLY", 1000)
    server.always = chat("yes" * 1000)
    with pytest.raises(InputError, match="no answer in 1 tries"):
        endpoint(server, retries=0).ask([PICTURE], ["q"])


def test_a_redirection_is_not_followed(server):
    class Moved(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(307)
            self.send_header("Location", f"{server.url}/chat/completions")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Moved) as moved:
        threading.Thread(target=moved.serve_forever, args=(0.01,), daemon=True).start()
        with pytest.raises(InputError, match="points to another address, which is not followed"):
            endpoint(server, base_url=f"http://127.0.0.1:{moved.server_port}/v1", retries=0).ask(
                [PICTURE], ["q"]
            )
        moved.shutdown()
    assert server.requests == []
