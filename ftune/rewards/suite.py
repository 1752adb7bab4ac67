"""Several reward sources as one: their weighted sum, and each one's own numbers beside it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from ftune.core.errors import ModelError, RewardError
from ftune.data.example import Answered, Conversation, Message, PromptCompletion
from ftune.rewards.base import RewardSource, Sample, Score, Scorer, Surroundings
from ftune.rewards.checked import checked

TRIED_PROMPTS = 4
TRIED_COMPLETIONS = ("", "Yes.")

LARGEST = 2.0**127
"""Of scores: fp32 holds about twice as much, and what it does not hold would be taken for no score at all."""


@dataclass(frozen=True, slots=True)
class SuiteScores:
    """What all sources say about some samples, in their order."""

    total: list[Score]
    """The weighted sums; None where a source that counts has nothing to say: the sample is left out of training."""
    by_source: dict[str, list[Score]]
    """Each source's own numbers, without its weight, by its title."""


@dataclass(frozen=True, slots=True)
class _Opened:
    title: str
    weight: float
    scorer: Scorer


class RewardSuite:
    """The sources of a run, open."""

    def __init__(self, sources: Sequence[RewardSource], around: Surroundings) -> None:
        """Opens all. Raises ModelError and RewardError that name the source."""
        self._opened: list[_Opened] = []
        for source, title in zip(sources, _titles(sources), strict=True):
            with _named(title):
                self._opened.append(_Opened(title, source.weight, source.open(around)))

    def score(self, samples: Sequence[Sample]) -> SuiteScores:
        """Every source on every sample.

        Raises RewardError, naming source and row, when a source fails or returns anything else than finite numbers and
        None, one a sample.
        """
        by_source: dict[str, list[Score]] = {}
        for opened in self._opened:
            with _named(opened.title):
                by_source[opened.title] = checked(opened.scorer(samples), samples)
        weighted = [(opened.weight, by_source[opened.title]) for opened in self._opened if opened.weight]
        total = [_sum([(weight, scores[index]) for weight, scores in weighted]) for index in range(len(samples))]
        for sample, score in zip(samples, total, strict=True):
            if score is not None and not abs(score) <= LARGEST:
                raise RewardError(
                    f"rewards: {sample.origin}: their weighted sum is {score:.3g}, and training computes with numbers "
                    f"of up to {LARGEST:.3g}; scale the rewards or their 'weight' down"
                )
        return SuiteScores(total, by_source)

    @property
    def titles(self) -> list[str]:
        """The names of the sources, as in `SuiteScores.by_source`."""
        return [opened.title for opened in self._opened]

    def check(self, samples: Sequence[Sample]) -> None:
        """Try every source on the first prompts with an empty and a short completion. Raises RewardError."""
        self.score([_with(sample, text) for sample in samples[:TRIED_PROMPTS] for text in TRIED_COMPLETIONS])


def _titles(sources: Sequence[RewardSource]) -> list[str]:
    """The title of each; of equal ones, the second gets `_2` behind it, and so on."""
    titles: list[str] = []
    for source in sources:
        title, number = source.title(), 2
        while title in titles:
            title, number = f"{source.title()}_{number}", number + 1
        titles.append(title)
    return titles


def _sum(weighted: Sequence[tuple[float, Score]]) -> Score:
    total = 0.0
    for weight, score in weighted:
        if score is None:
            return None
        total += weight * score
    return total


def _with(sample: Sample, completion: str) -> Sample:
    """The sample with another completion, which the policy ended."""
    tokens = [0] * (len(completion.split()) + 1)
    example = _answered(sample.example, completion)
    return replace(sample, example=example, completion=completion, token_ids=tokens, stopped=True)


def _answered(example: Answered, completion: str) -> Answered:
    if isinstance(example, PromptCompletion):
        return replace(example, completion=completion)
    answer = Message("assistant", completion)
    return Conversation((*example.messages[:-1], answer), example.tools, example.prompt_turns)


@contextmanager
def _named(title: str) -> Iterator[None]:
    """Put the source's name before what it says is wrong."""
    try:
        yield
    except (ModelError, RewardError) as error:
        message = str(error).removeprefix("model.path: ")
        raise type(error)(f"reward '{title}': {message}") from error.__cause__
