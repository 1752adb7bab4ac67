"""A reward model as the judge: the answer with the higher score is the better one."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field

from ftune.core.section import Location
from ftune.data.example import Answered, Conversation, Message, PromptCompletion
from ftune.judges.base import Ask, Judge, Pair, Progress, Verdict, unheard
from ftune.rewards.base import Sample, Score, Surroundings
from ftune.rewards.classifiers.find import check_classifier_path
from ftune.rewards.model import RewardModel
from ftune.rewards.paths import LookedUp

BATCHES = 8
"""So many batches are scored between two words about progress; rows of like length go together within them."""


class Reward(Judge):
    """A reward model, which scores each answer for itself: no order can sway it, and it reads no reference."""

    type: Literal["reward"] = "reward"

    path: LookedUp
    """Run folder of `ftune rm`, folder of a model or adapter, or hub id."""

    margin: Annotated[float, Field(ge=0)] = 0.0
    """Scores that differ by no more than this are a tie; in standard deviations of the scores on the model's own
    validation rows where these are known, else in the model's own unit."""

    positive_class: str | None = None
    """The class whose logit is the score, of a model with several; by default the one it was trained for."""

    def faults(self) -> Iterator[tuple[Location, str]]:
        """A path without a model."""
        if problem := check_classifier_path(self.path):
            yield ("path",), problem

    def open(self, around: Surroundings) -> Ask:
        """The model, loaded. Raises ModelError when it cannot be; asked, RewardError for a row that it cannot read."""
        model = RewardModel(path=self.path, positive_class=self.positive_class)
        score = model.open(replace(around, shared=None))
        at_once = BATCHES * around.micro_batch_size

        def ask(pairs: Sequence[Pair], progress: Progress = unheard) -> list[Verdict]:
            verdicts: list[Verdict] = []
            for start in range(0, len(pairs), at_once):
                chosen = pairs[start : start + at_once]
                first = score([_sample(pair, pair.first) for pair in chosen])
                second = score([_sample(pair, pair.second) for pair in chosen])
                verdicts += map(self._verdict, chosen, first, second)
                progress(len(verdicts))
            return verdicts

        return ask

    def _verdict(self, pair: Pair, first: Score, second: Score) -> Verdict:
        if pair.first == pair.second:
            return "tie"
        if first is None or second is None or not (math.isfinite(first) and math.isfinite(second)):
            return None
        if abs(first - second) <= self.margin:
            return "tie"
        return "first" if first > second else "second"


def _sample(pair: Pair, answer: str) -> Sample:
    """The prompt with one of its answers, for a reward."""
    example: Answered
    if isinstance(pair.prompt, Conversation):
        example = replace(pair.prompt, messages=(*pair.prompt.messages, Message("assistant", answer)))
    else:
        example = PromptCompletion(pair.prompt, answer)
    return Sample(example, answer, token_ids=(), stopped=True, reference=pair.reference, origin=pair.origin)
