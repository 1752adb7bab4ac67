"""Pairs of answers, and a chat completions service on this machine that replies as a test wants."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from ftune.data.example import Conversation, Message
from ftune.judges import post
from ftune.judges.base import Pair

SHORT = "{conversation}\n{reference}A {answer_a}\nB {answer_b}"
"""A question that a model with 256 positions can read."""


def pair(first: str, second: str, **other: Any) -> Pair:
    """Two answers to one user."""
    return Pair(Conversation((Message("user", "the cat?"),)), first, second, **({"origin": "rows.jsonl:1"} | other))


@dataclass
class Reply:
    """What the service sends back."""

    body: bytes
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    drips: bool = False
    """One byte after the other, and never the last one."""


def says(text: object, status: int = 200) -> Reply:
    """A chat completion with this text."""
    return Reply(json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}).encode(), status)


@dataclass
class Service:
    """Replies what `reply` makes of each question, and keeps what it was asked, with the headers."""

    url: str = ""
    reply: Callable[[dict[str, Any]], Reply] = field(default=lambda _: says("Verdict: A"))
    asked: list[tuple[str, dict[str, str], dict[str, Any]]] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def replies(self, *each: Reply) -> None:
        """One after the other, the last one for ever."""
        left = list(each)
        self.reply = lambda _: left.pop(0) if len(left) > 1 else left[0]

    def serve(self, handler: BaseHTTPRequestHandler) -> None:
        """One reply."""
        question = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        self.asked.append((handler.path, dict(handler.headers), question))
        made = self.reply(question)
        handler.send_response(made.status)
        for name, value in (made.headers | {"Content-Length": str(10**6 if made.drips else len(made.body))}).items():
            handler.send_header(name, value)
        handler.end_headers()
        if made.drips:
            with suppress(OSError):  # nobody listens any more
                while not self.ended.wait(0.02):
                    handler.wfile.write(b" ")
            return
        handler.wfile.write(made.body)


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """The service, at work; questions are asked again at once."""
    monkeypatch.setattr(post, "FIRST_WAIT_S", 0.0)
    made = Service()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            made.serve(self)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.url = f"http://127.0.0.1:{server.server_port}/v1"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield made
    made.ended.set()
    server.shutdown()
    server.server_close()
