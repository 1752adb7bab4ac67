"""A reward from a service: any program that answers JSON."""

import json
import os
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from ftune.core.errors import RewardError
from ftune.core.section import Location
from ftune.rewards.base import RewardSource, Sample, Score, Scorer, Surroundings
from ftune.rewards.checked import checked
from ftune.rewards.layout import columns_of, completions_of, prompts_of

if TYPE_CHECKING:
    from urllib.request import Request

FIRST_WAIT_S = 0.5
TEMPORARY = {408, 425, 429, 500, 502, 503, 504}
"""Answers after which it is worth while to ask again."""


class Http(RewardSource):
    """What a service answers to a POST of `{"prompts": [...], "completions": [...], "columns": {...}}`.

    Prompts and completions are as TRL's reward functions get them. The answer is `{"rewards": [...]}` or the list
    itself, with null for samples to leave out.
    """

    type: Literal["http"] = "http"

    url: str
    """Where the service listens, `http://` or `https://`."""

    columns: list[str] = Field(default_factory=list)
    """Columns of the prompts' rows that are sent along."""

    timeout_s: Annotated[float, Field(gt=0)] = 60.0
    """Longest wait for an answer in seconds."""

    retries: Annotated[int, Field(ge=0)] = 3
    """How often it is asked again when it does not answer or is busy, after half a second and twice as long each
    time."""

    token_env: str | None = None
    """Environment variable with a token, sent as `Authorization: Bearer`; the token itself is written nowhere."""

    @field_validator("url")
    @classmethod
    def _is_url(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"give an address such as http://localhost:8000/score, got '{value}'")
        if parts.username or parts.password:
            raise ValueError("holds a password, which would be written into logs; use 'token_env'")
        return value

    def faults(self) -> Iterator[tuple[Location, str]]:
        """A variable that is not set."""
        if self.token_env is not None and not os.environ.get(self.token_env):
            yield ("token_env",), f"the environment variable '{self.token_env}' is not set"

    def open(self, around: Surroundings) -> Scorer:
        """Ready at once: whether the service is there, the check before the first rollout finds out."""

        def score(samples: Sequence[Sample]) -> list[Score]:
            return checked(self._answer(samples), samples) if samples else []

        return score

    def _answer(self, samples: Sequence[Sample]) -> object:
        known = columns_of(samples)
        question = {
            "prompts": prompts_of(samples),
            "completions": completions_of(samples),
            "columns": {name: known.get(name, [None] * len(samples)) for name in self.columns},
        }
        text = self._asked(json.dumps(question, default=str).encode())
        try:
            answer = json.loads(text)
        except ValueError:
            raise RewardError(f"{self.url} answered no JSON: {text[:60]!r}") from None
        if isinstance(answer, dict):
            if "rewards" not in answer:
                raise RewardError(f"{self.url} answered an object without 'rewards': {text[:60]!r}")
            return answer["rewards"]
        return answer

    def _asked(self, body: bytes) -> bytes:
        """The answer's bytes. Raises RewardError after the last retry, or at once where another try is no use."""
        from http.client import HTTPException
        from urllib.error import HTTPError
        from urllib.request import urlopen

        for attempt in range(self.retries + 1):
            if attempt:
                time.sleep(FIRST_WAIT_S * 2 ** (attempt - 1))
            try:
                with urlopen(self._request(body), timeout=self.timeout_s) as response:  # noqa: S310 - the URL is checked
                    content: bytes = response.read()
                    return content
            except HTTPError as error:
                problem = f"answered {error.code} {error.reason}: {error.read(200).decode(errors='replace').strip()!r}"
                if error.code not in TEMPORARY:
                    break
            except (OSError, HTTPException) as error:  # URLError and time-outs are OSErrors
                problem = f"did not answer: {getattr(error, 'reason', None) or error or type(error).__name__}"
        tries = f" after {attempt + 1} tries" if attempt else ""
        raise RewardError(f"{self.url} {problem}{tries}")

    def _request(self, body: bytes) -> "Request":
        from urllib.request import Request

        request = Request(self.url, body, {"Content-Type": "application/json"}, method="POST")  # noqa: S310 - as above
        if self.token_env is not None:  # unredirected: another host that the service points to never sees it
            request.add_unredirected_header("Authorization", f"Bearer {os.environ.get(self.token_env, '')}")
        return request
