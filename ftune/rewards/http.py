"""A reward from a service: any program that answers JSON."""

import json
from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

from pydantic import Field, field_validator

from ftune.core.errors import RewardError
from ftune.core.post import NoAnswerError, Service
from ftune.core.section import Location
from ftune.core.service import KeyVariable, check_url, key_in, key_problem
from ftune.rewards.base import RewardSource, Sample, Score, Scorer, Surroundings
from ftune.rewards.checked import checked
from ftune.rewards.layout import columns_of, completions_of, prompts_of


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
    """How often it is asked again when it does not answer or is busy: after half a second, and about twice as
    long each time, or as long as the service asks for (a minute at most)."""

    token_env: KeyVariable | None = None
    """Environment variable with a token, sent as `Authorization: Bearer`; the token itself is written nowhere."""

    @field_validator("url")
    @classmethod
    def _is_url(cls, value: str) -> str:
        return check_url(value, "http://localhost:8000/score")

    def faults(self) -> Iterator[tuple[Location, str]]:
        """A variable that is not set, or whose value cannot be sent."""
        if problem := key_problem(self.token_env):
            yield ("token_env",), problem

    def open(self, around: Surroundings) -> Scorer:
        """Ready at once: whether the service is there, the check before the first rollout finds out.

        Raises RewardError without a token.
        """
        if problem := key_problem(self.token_env):
            raise RewardError(f"token_env: {problem}")
        service = Service(self.url, key_in(self.token_env), self.timeout_s, self.retries)

        def score(samples: Sequence[Sample]) -> list[Score]:
            return checked(self._answer(service, samples), samples) if samples else []

        return score

    def _answer(self, service: Service, samples: Sequence[Sample]) -> object:
        """What it returned for the samples. Raises RewardError after the last retry, or where another is no use."""
        known = columns_of(samples)
        question = {
            "prompts": prompts_of(samples),
            "completions": completions_of(samples),
            "columns": {name: known.get(name, [None] * len(samples)) for name in self.columns},
        }
        try:
            content = service.post(question)
        except NoAnswerError as error:
            raise RewardError(f"{self.url} {error}") from None
        said = service.shown(content.decode(errors="replace"))
        try:
            answer = json.loads(content)
        except (ValueError, RecursionError):
            raise RewardError(f"{self.url} answered no JSON: {said}") from None
        if isinstance(answer, dict):
            if "rewards" not in answer:
                raise RewardError(f"{self.url} answered an object without 'rewards': {said}")
            return answer["rewards"]
        return answer
