"""A service on this machine that replies to each question as a test wants."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Reply:
    """What the service sends back."""

    body: bytes
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    drips: bool = False
    """One byte after the other, and never the last one."""
    cut: bool = False
    """One byte less than is announced."""
    silent: bool = False
    """Nothing at all, not even a status."""


@dataclass
class StandIn:
    """Replies what `reply` makes of each question, and keeps what it was asked: path, headers and the question."""

    reply: Callable[[Any], Reply]
    url: str = ""
    asked: list[tuple[str, dict[str, str], Any]] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def replies(self, *each: Reply) -> None:
        """One after the other, the last one for ever."""
        left = list(each)
        self.reply = lambda _: left.pop(0) if len(left) > 1 else left[0]

    def serve(self, handler: BaseHTTPRequestHandler) -> None:
        """One reply."""
        body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        question = json.loads(body or b"null")
        self.asked.append((handler.path, dict(handler.headers), question))
        made = self.reply(question)
        if made.silent:
            self.ended.wait(5)
            return
        handler.send_response(made.status)
        for name, value in (
            made.headers | {"Content-Length": str(10**6 if made.drips else len(made.body) + made.cut)}
        ).items():
            handler.send_header(name, value)
        handler.end_headers()
        if made.drips:
            with suppress(OSError):  # nobody listens any more
                while not self.ended.wait(0.02):
                    handler.wfile.write(b" ")
            return
        handler.wfile.write(made.body)


@contextmanager
def serving(reply: Callable[[Any], Reply], path: str) -> Iterator[StandIn]:
    """The service, at work at `path` and everywhere else."""
    made = StandIn(reply)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            made.serve(self)

        def do_GET(self) -> None:
            made.serve(self)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.url = f"http://127.0.0.1:{server.server_port}{path}"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield made
    finally:
        made.ended.set()
        server.shutdown()
        server.server_close()
