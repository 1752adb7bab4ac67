"""Rewards from a service on this machine: what is sent, and what becomes of every kind of answer."""

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from pydantic import ValidationError

from ftune.core.errors import RewardError
from ftune.rewards import http
from ftune.rewards.base import Surroundings
from ftune.rewards.http import Http
from tests.rewards.conftest import chat, said


@dataclass
class Service:
    """A server that answers what a test puts into `answers`, the last one for ever, and keeps what it was asked."""

    url: str = ""
    answers: list[tuple[int, bytes]] = field(default_factory=list)
    asked: list[tuple[dict[str, str], Any]] = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        """One answer."""
        body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        self.asked.append((dict(handler.headers), json.loads(body or b"null")))
        status, content = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if status == 0:
            self.gate.wait(5)
            return
        handler.send_response(status)
        if status == 302:
            handler.send_header("Location", self.url)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """The server, at work; retries come at once."""
    monkeypatch.setattr(http, "FIRST_WAIT_S", 0.0)
    made = Service()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            made.answer(self)

        def do_GET(self) -> None:
            made.answer(self)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.url = f"http://127.0.0.1:{server.server_port}/score"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield made
    made.gate.set()
    server.shutdown()
    server.server_close()


def score(service: Service, **keys: Any) -> list[float | None]:
    """Two samples, scored."""
    return Http(url=service.url, **keys).open(Surroundings())(said("the cat", "sat"))


@pytest.mark.parametrize("body", [b'{"rewards": [1, null]}', b"[1.0, null]"])
def test_an_object_or_a_list_is_an_answer(service: Service, body: bytes) -> None:
    service.answers = [(200, body)]
    assert score(service) == [1.0, None]


def test_what_is_sent(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCORE_TOKEN", "secret")
    service.answers = [(200, b"[0]")]
    source = Http(url=service.url, columns=["level", "none"], token_env="SCORE_TOKEN")
    source.open(Surroundings())([chat("hi", "the cat", columns={"level": 3, "other": 4})])
    ((headers, question),) = service.asked
    assert headers["Authorization"] == "Bearer secret"
    assert question == {
        "prompts": [[{"role": "user", "content": "hi"}]],
        "completions": [[{"role": "assistant", "content": "the cat"}]],
        "columns": {"level": [3], "none": [None]},
    }
    assert "secret" not in source.model_dump_json()


def test_the_token_does_not_follow_to_where_the_service_points(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCORE_TOKEN", "secret")
    service.answers = [(302, b""), (200, b"[0, 0]")]
    score(service, token_env="SCORE_TOKEN")
    assert ["Authorization" in headers for headers, _ in service.asked] == [True, False]


def test_a_busy_service_is_asked_again(service: Service) -> None:
    service.answers = [(503, b"busy"), (429, b"busy"), (200, b"[1, 2]")]
    assert score(service) == [1.0, 2.0]
    assert len(service.asked) == 3


@pytest.mark.parametrize(
    ("answer", "tries", "message"),
    [
        ((503, b"busy"), 2, "answered 503 .*'busy' after 2 tries"),
        ((401, b"who?"), 1, r"answered 401 .*'who\?'"),
        ((200, b"<html>"), 1, "answered no JSON"),
        ((200, b'{"scores": [1, 2]}'), 1, "without 'rewards'"),
        ((200, b"[1]"), 1, "1 numbers for 2 samples"),
        ((200, b"[1, NaN]"), 1, r"rows\.jsonl:2: returned nan"),
        ((200, b'[1, "2"]'), 1, r"rows\.jsonl:2: returned '2' \(str\)"),
        ((200, b'{"rewards": "high"}'), 1, r"returned 'high' \(str\)"),
        ((0, b""), 2, "did not answer: .*after 2 tries"),
    ],
)
def test_what_is_wrong_with_an_answer_is_said(
    service: Service, answer: tuple[int, bytes], tries: int, message: str
) -> None:
    service.answers = [answer]
    with pytest.raises(RewardError, match=message):
        score(service, retries=1, timeout_s=0.2)
    assert len(service.asked) == tries


def test_nobody_there(service: Service) -> None:
    with pytest.raises(RewardError, match="did not answer"):
        Http(url="http://127.0.0.1:9/", retries=0).open(Surroundings())(said("a"))


@pytest.mark.parametrize("url", ["ftp://a/b", "localhost:1", "http://", "http://me:word@host/"])
def test_other_addresses_are_refused(url: str) -> None:
    with pytest.raises(ValidationError):
        Http(url=url)


def test_a_variable_that_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SCORE_TOKEN", raising=False)
    ((place, message),) = Http(url="http://localhost/", token_env="SCORE_TOKEN").faults()
    assert place == ("token_env",)
    assert "SCORE_TOKEN" in message
