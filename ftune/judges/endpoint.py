"""A judge behind an OpenAI-compatible chat completions service."""

from collections.abc import Iterator, Sequence
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from ftune.core.errors import LaunchError
from ftune.core.post import Service
from ftune.core.section import Location
from ftune.core.service import KeyVariable, check_url, key_in, key_problem
from ftune.judges.asking import Asked, Asker
from ftune.judges.base import Ask, Judge, Pair, Progress, Verdict, unheard
from ftune.judges.orders import Choice, in_both_orders
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

    api_key_env: KeyVariable | None = None
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
        if urlsplit(check_url(value, "http://localhost:8000/v1")).query:
            raise ValueError("holds a '?' with values, which would be written into logs; a key goes into api_key_env")
        return value

    def faults(self) -> Iterator[tuple[Location, str]]:
        """A variable that is not set, or whose value cannot be sent."""
        if problem := key_problem(self.api_key_env):
            yield ("api_key_env",), problem

    def open(self, around: Surroundings) -> Ask:
        """Ready at once: whether the service is there, the first question finds out. LaunchError without a key."""
        if problem := key_problem(self.api_key_env):
            raise LaunchError(f"api_key_env: {problem}")
        url = self.url.rstrip("/")
        url = url if url.endswith(PATH) else f"{url}{PATH}"
        service = Service(url, key_in(self.api_key_env), self.timeout_s, self.retries)
        sent = {"model": self.model, "temperature": self.temperature, "max_tokens": self.max_tokens}
        settings = {name: value for name, value in sent.items() if value is not None}
        asker = Asker(self.model, service, settings, self.concurrency, around.remark)

        def ask_once(pairs: Sequence[Pair], progress: Progress) -> list[Choice]:
            asked = [Asked(question(self.prompt, pair, HOW_TO_REPLY), pair.origin) for pair in pairs]
            return asker.choices(asked, progress)

        def ask(pairs: Sequence[Pair], progress: Progress = unheard) -> list[Verdict]:
            return in_both_orders(pairs, ask_once, progress)

        return ask
