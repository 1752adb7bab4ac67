"""A connection from every process of a run to the first one, so that all know within seconds when one is gone.

A process that dies leaves the others waiting in an exchange, with NCCL for many minutes. But the kernel closes its
connections at once, however it died, and the thread that holds the other end sees it. What a process knows about its
own failure it says over the same connection before it goes. A machine that vanishes without a word is found by TCP's
keep-alive. A process that is only slow is never taken for a dead one: there are no heartbeats to miss.
"""

import contextlib
import json
import os
import secrets
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

GRACE_S = 5.0
"""How long the main thread of a process may take to end by itself once another process is gone."""

QUIET_S, PROBE_S, PROBES = 8, 4, 3
"""Keep-alive: after so many seconds of silence a probe every so many seconds; dead when as many are not answered."""

CONNECTING_S, HELLO_S = 120.0, 10.0
"""How long the first process waits for the others to connect, and for what they say then."""

LEAVING_S = 30.0
"""How long the first process waits for the others to leave."""

LONGEST = 2**16
"""Bytes of a message."""


@dataclass(frozen=True, slots=True)
class Loss:
    """A process that is gone."""

    rank: int
    host: str
    words: str = ""
    """Why, in its own words; empty when it had no time for any."""
    code: int = 1
    """Its exit code, which becomes that of all."""

    def __str__(self) -> str:
        where = f"process {self.rank} ({self.host})"
        return (
            f"{where} failed: {self.words}" if self.words else f"{where} is gone without a word (killed, or its node)"
        )


class Lifeline:
    """The end of the connections that this process holds."""

    def __init__(self, rank: int, count: int, *, publish: Callable[[str], None], find: Callable[[], str]) -> None:
        """`publish` tells the others where the first process listens, `find` waits for that. Raises OSError."""
        self.rank = rank
        self.loss: Loss | None = None
        self.last_words: list[Callable[[], None]] = []
        """Called before a process ends that cannot end by itself."""
        self._told, self._closing = threading.Event(), False
        self._peers: dict[socket.socket, Loss] = {}
        if rank == 0:
            self._listen(count, publish)
        else:
            self._connect(find())
        self._thread = threading.Thread(target=self._watch, name="lifeline", daemon=True)
        self._thread.start()

    def wait(self, seconds: float) -> Loss | None:
        """The process that was lost, if that becomes known in this time."""
        self._told.wait(seconds)
        return self.loss

    def fail(self, words: str, code: int) -> None:
        """Tell all others that this process ends with an error."""
        self._closing = True
        self._tell(Loss(self.rank, socket.gethostname(), words[-LONGEST // 2 :], code))
        self._hang_up()

    def close(self) -> None:
        """Leave in peace; the first process is the last to leave, for it may serve the others."""
        until = time.monotonic() + LEAVING_S
        while self.rank == 0 and self._peers and self.loss is None and time.monotonic() < until:
            time.sleep(0.01)
        self._closing = True
        for peer in list(self._peers):
            _send(peer, {"bye": True})
        self._hang_up()

    def _listen(self, count: int, publish: Callable[[str], None]) -> None:
        server = socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True) if _has_ipv6() else None
        server = server or socket.create_server(("", 0))
        token = secrets.token_hex(16)
        publish(json.dumps({"port": server.getsockname()[1], "token": token}))
        with server:
            server.settimeout(CONNECTING_S)  # all have been at the meeting a moment ago
            while len(self._peers) < count - 1:
                peer, _ = server.accept()
                peer.settimeout(HELLO_S)
                hello = _receive(peer, bytearray())
                if not hello or not secrets.compare_digest(str(hello[0].get("token")), token):
                    peer.close()
                    continue
                peer.settimeout(None)
                self._keep(peer, Loss(int(hello[0]["rank"]), str(hello[0]["host"])))

    def _connect(self, found: str) -> None:
        where, host = json.loads(found), os.environ["MASTER_ADDR"]
        first = socket.create_connection((host, where["port"]), timeout=CONNECTING_S)
        first.settimeout(None)
        _send(first, {"token": where["token"], "rank": self.rank, "host": socket.gethostname()})
        self._keep(first, Loss(0, host))

    def _keep(self, peer: socket.socket, if_lost: Loss) -> None:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in (("TCP_KEEPIDLE", QUIET_S), ("TCP_KEEPINTVL", PROBE_S), ("TCP_KEEPCNT", PROBES)):
            if hasattr(socket, option):
                peer.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
        self._peers[peer] = if_lost

    def _watch(self) -> None:
        rests = {peer: bytearray() for peer in self._peers}
        with selectors.DefaultSelector() as selector:
            for peer in self._peers:
                selector.register(peer, selectors.EVENT_READ)
            while rests and not self._closing:
                for key, _ in selector.select(timeout=1.0):
                    heard: Any = key.fileobj
                    if self._read(heard, rests[heard]):
                        continue
                    selector.unregister(heard)
                    del rests[heard]

    def _read(self, peer: socket.socket, rest: bytearray) -> bool:
        """Whether there may be more to hear from this one."""
        for message in _receive(peer, rest) or [{"gone": True}]:
            if "bye" in message:
                self._peers.pop(peer, None)
                return False
            if "gone" in message:
                if_lost = self._peers.pop(peer, None)
                if if_lost is not None and not self._closing:
                    self._lost(if_lost)
                return False
            if "rank" in message and not self._closing:
                self._lost(Loss(**message))
        return True

    def _lost(self, loss: Loss) -> None:
        if self.loss is not None:
            return
        self.loss = loss
        if self.rank == 0:
            self._tell(loss)
        self._told.set()
        threading.Thread(target=self._end, name="last words", daemon=True).start()

    def _tell(self, loss: Loss) -> None:
        for peer in list(self._peers):
            _send(peer, asdict(loss))

    def _end(self) -> None:
        time.sleep(GRACE_S)
        if self._closing or self.loss is None:
            return
        for word in self.last_words:
            with contextlib.suppress(Exception):  # nothing may keep it from ending
                word()
        print(f"error: {self.loss}", file=sys.stderr, flush=True)
        os._exit(self.loss.code)

    def _hang_up(self) -> None:
        for peer in list(self._peers):
            with contextlib.suppress(OSError):
                peer.shutdown(socket.SHUT_WR)


def _send(peer: socket.socket, message: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):  # who is gone need not be told
        peer.sendall(json.dumps(message).encode() + b"\n")


def _receive(peer: socket.socket, rest: bytearray) -> list[dict[str, Any]]:
    """The whole messages that have come; empty when the connection is closed."""
    while True:
        try:
            piece = peer.recv(LONGEST)
        except OSError:
            piece = b""
        if not piece or len(rest) > LONGEST:
            return []
        rest += piece
        *lines, last = bytes(rest).split(b"\n")
        if lines:
            rest[:] = last
            return [json.loads(line) for line in lines]


def _has_ipv6() -> bool:
    return socket.has_dualstack_ipv6()
