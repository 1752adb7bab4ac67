"""A judge behind an OpenAI-compatible chat completions service."""

import os
from collections.abc import Iterator, Sequence
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from ftune.core.errors import LaunchError
from ftune.core.section import Location
from ftune.judges.asking import Asked, Asker
from ftune.judges.base import Ask, Judge, Pair, Progress, Verdict, unheard
from ftune.judges.orders import Choice, in_both_orders
from ftune.judges.post import Service
from ftune.judges.question import QUESTION, Question, question
from ftune.judges.replies import HOW_TO_REPLY
from ftune.rewards.base import Surroundings

PATH = "/chat/completions"


class Endpoint(Judge):
    """A model behind an OpenAI-compatible service, in both orders: the verdict is the last line of its reply.

    Where both orders agree, that is the verdict; where they do not, it is `inconsistent` and counts as a tie. A reply
    without a verdict is asked for once more; a question without an answer has none. A service that refuses the key or
    the model, or answers nobody for a while, is asked no more.
    """

    type: Literal["endpoint"] = "endpoint"

    url: str
    """Where the service is, such as `http://localhost:8000/v1`; `/chat/completions` is added where it is not there."""

    model: str
    """The model's name at the service."""

    api_key_env: str | None = None
    """The name of the environment variable that holds the key, never the key itself, which is written nowhere."""

    timeout_s: Annotated[float, Field(gt=0)] = 60.0
    """Longest wait for an answer in seconds."""

    retries: Annotated[int, Field(ge=0)] = 5
    """How often a question is asked again when nobody answers or the service is busy: after half a second, and about
    twice as long each time, or as long as the service asks for (a minute at most)."""

    concurrency: Annotated[int, Field(ge=1, le=256)] = 8
    """Questions that are asked at once."""

    temperature: Annotated[float, Field(ge=0)] | None = 0.0
    """Sent along; null for models that take none."""

    max_tokens: Annotated[int, Field(ge=1)] | None = 512
    """Longest reply, sent along; null for models that take none."""

    prompt: Question = QUESTION
    """The question, with `{conversation}`, `{answer_a}`, `{answer_b}` and `{reference}` (nothing for rows without one).
    How to reply is added below it."""

    @field_validator("url")
    @classmethod
    def _is_url(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname or not value.isascii() or parts.port == 0:
            raise ValueError("give an address such as http://localhost:8000/v1")
        if parts.username or parts.password or parts.query:
            raise ValueError("holds a password or a '?' with values, which would be written into logs; use api_key_env")
        return value

    @field_validator("api_key_env")
    @classmethod
    def _is_name(cls, value: str | None) -> str | None:
        if value is not None and not value.isidentifier():
            raise ValueError("is the name of an environment variable, such as OPENAI_API_KEY, and not the key itself")
        return value

    def faults(self) -> Iterator[tuple[Location, str]]:
        """A variable that is not set, or whose value cannot be sent."""
        if problem := self._key_problem():
            yield ("api_key_env",), problem

    def open(self, around: Surroundings) -> Ask:
        """Ready at once: whether the service is there, the first question finds out. LaunchError without a key."""
        if problem := self._key_problem():
            raise LaunchError(f"api_key_env: {problem}")
        url = self.url.rstrip("/")
        service = Service(url if url.endswith(PATH) else f"{url}{PATH}", self._key(), self.timeout_s, self.retries)
        sent = {"model": self.model, "temperature": self.temperature, "max_tokens": self.max_tokens}
        settings = {name: value for name, value in sent.items() if value is not None}
        asker = Asker(self.model, service, settings, self.concurrency, around.remark)

        def ask_once(pairs: Sequence[Pair], progress: Progress) -> list[Choice]:
            asked = [Asked(question(self.prompt, pair, HOW_TO_REPLY), pair.origin) for pair in pairs]
            return asker.choices(asked, progress)

        def ask(pairs: Sequence[Pair], progress: Progress = unheard) -> list[Verdict]:
            return in_both_orders(pairs, ask_once, progress)

        return ask

    def _key(self) -> str:
        return os.environ.get(self.api_key_env, "").strip() if self.api_key_env else ""

    def _key_problem(self) -> str:
        """What is wrong with the key; says neither the key nor the name, which may be a key given by mistake."""
        if self.api_key_env is None:
            return ""
        key = self._key()
        if not key:
            return "the environment variable that it names is not set; set it to the key"
        if not (key.isascii() and key.isprintable()):  # http.client would refuse it with the key in its message
            return "the value of the environment variable that it names is no key: it has other characters than ASCII"
        return ""
