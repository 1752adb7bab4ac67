"""One question to a service over HTTP: asked again while that is busy, given up with the reason in words."""

import json
import random
from dataclasses import dataclass, field
from threading import Event
from typing import TYPE_CHECKING, Any

from ftune.core.deadline import within

if TYPE_CHECKING:
    from urllib.error import HTTPError

FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 60.0
LONGEST_ANSWER = 2**22
"""Bytes of an answer that are read; one that is longer is no answer."""

TEMPORARY = {408, 425, 429, 500, 502, 503, 504}
"""Answers after which it is worth while to ask again."""

LASTING = {401, 402, 403, 404, 405}
"""Refusals of a wrong key, address or model's name; from a service that has answered others, of one question."""


class NoAnswerError(Exception):
    """A question has no answer; says why, without the key."""

    def __init__(self, reason: str, status: int | None = None, wait_s: float = 0.0) -> None:
        super().__init__(reason)
        self.status = status
        """Of the service's refusal; None where nobody answered in time."""
        self.wait_s = wait_s
        """How long the service wants to be left alone."""

    @property
    def temporary(self) -> bool:
        """Whether it is worth while to ask the same again."""
        return self.status is None or self.status in TEMPORARY

    @property
    def lasting(self) -> bool:
        """Whether other questions will end alike, if none has been answered yet."""
        return self.status in LASTING


@dataclass(frozen=True, slots=True)
class Service:
    """Where questions go. Several threads may ask at once."""

    url: str
    key: str = field(repr=False)
    """Sent as `Authorization: Bearer`, and shown nowhere; empty for none."""
    timeout_s: float
    """Longest wait for a whole answer."""
    retries: int
    closed: Event = field(default_factory=Event)
    """Set where nobody waits for answers any more: nothing is asked again."""

    def post(self, question: object) -> bytes:
        """The answer to a question, sent as JSON. Raises NoAnswerError after the last retry, or where none can help.

        Waits between tries are twice as long each time, and by chance up to half longer or shorter, so that questions
        which were refused together do not come back together.
        """
        body = json.dumps(question, default=str).encode()  # a row's columns may hold dates
        for attempt in range(self.retries + 1):
            try:
                return self._once(body)
            except NoAnswerError as error:
                if not error.temporary or attempt == self.retries or self.closed.is_set():
                    tries = f" (after {attempt + 1} tries)" if attempt else ""
                    raise NoAnswerError(f"{error}{tries}", error.status) from None
                wait = FIRST_WAIT_S * 2 ** min(attempt, 16) * random.uniform(0.5, 1.5)  # noqa: S311 - no secret
                self.closed.wait(min(max(wait, error.wait_s), LONGEST_WAIT_S))
        raise AssertionError("unreachable: the last try returns or raises")

    def _once(self, body: bytes) -> bytes:
        from http.client import HTTPException

        try:  # the time-out of a socket begins anew with every byte, so it alone is no limit
            content = within(self.timeout_s, lambda: self._exchange(body), self.closed)
        # URLError and time-outs are OSErrors; the others come of an address that the service points to and that is none
        except (OSError, HTTPException, ValueError, OverflowError) as error:
            cause = getattr(error, "reason", None) or error or type(error).__name__
            raise NoAnswerError(f"did not answer: {self.shown(cause)}") from None
        if len(content) > LONGEST_ANSWER:
            raise NoAnswerError(f"answered more than {LONGEST_ANSWER:,} bytes", 200)
        return content

    def _exchange(self, body: bytes) -> bytes:
        from urllib.error import HTTPError
        from urllib.request import Request, urlopen

        request = Request(self.url, body, {"Content-Type": "application/json"}, method="POST")  # noqa: S310 - checked
        if self.key:  # unredirected: another host that the service points to never sees it
            request.add_unredirected_header("Authorization", f"Bearer {self.key}")
        try:
            with urlopen(request, timeout=self.timeout_s) as response:  # noqa: S310 - the URL is checked
                content: bytes = response.read(LONGEST_ANSWER + 1)
                if response.length and len(content) <= LONGEST_ANSWER:  # http.client takes the end for the end
                    raise NoAnswerError(f"broke off: {len(content):,} bytes came, {response.length:,} did not")
                return content
        except HTTPError as error:
            with error:
                said = error.read(LONGEST_ANSWER).decode(errors="replace")
            reason = f"answered {error.code} {self.shown(error.reason)}: {self.shown(said)}"
            raise NoAnswerError(reason, error.code, _asked_to_wait(error)) from None

    def shown(self, said: Any) -> str:
        """The beginning of what a service said, without the key, should it have repeated that."""
        text = " ".join(str(said).split())
        text = text.replace(self.key, "[key]") if self.key else text
        return text[:200].encode("unicode_escape").decode()


def _asked_to_wait(error: "HTTPError") -> float:
    """Seconds of the header `Retry-After`; 0 without one and for a date."""
    value = error.headers.get("Retry-After", "")
    return float(value) if value.isdecimal() else 0.0
