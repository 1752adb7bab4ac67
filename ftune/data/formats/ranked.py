"""Rows with several answers, each with a rank or a score: the best against the worst, and all of them in order."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar, Literal, NamedTuple

from ftune.core.errors import DataError
from ftune.data.example import Conversation, Example, Message, Skipped
from ftune.data.formats.base import SYSTEM, RowFormat, Values, described, quoted_keys, text_of
from ftune.data.formats.cells import parsed
from ftune.data.formats.exchange import before_answer
from ftune.data.formats.hh import asked_in
from ftune.data.formats.sides import answers_to, number_of
from ftune.data.formats.two_answers import A_TIE


class Ranking(NamedTuple):
    """One way to write it: the list, and what the text and the verdict of its items are called."""

    answers: str
    text: str
    verdict: str
    lowest: bool = False
    """Whether the lowest number is the best, as of ranks."""


RANKINGS = (
    Ranking("answers", "answer", "rank", lowest=True),  # Nectar
    Ranking("completions", "response", "overall_score"),  # UltraFeedback
    Ranking("answers", "text", "pm_score"),  # Stack Exchange preferences
    Ranking("responses_and_scores", "response", "score"),  # GPT-4-LLM comparisons
)


class RankedFormat(RowFormat):
    """A prompt with a list of answers that have ranks or scores; the best is chosen, the worst rejected.

    Of answers that are equally good the first is taken. Where all are, the row is left out and counted. `ftune rm`
    trains on every pair of which one is better.

    {"prompt": "Name a river.", "answers": [{"answer": "The Loire.", "rank": 1}, {"answer": "Paris.", "rank": 2}]}
    """

    type: Literal["ranked"] = "ranked"
    keys: ClassVar[tuple[str, ...]] = ("prompt", "answers")
    optional: ClassVar[tuple[str, ...]] = ("input", "system")
    names: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "prompt": ("prompt", "instruction", "question", "query", "user_input", "input"),
        "system": SYSTEM,
    }
    rank: ClassVar[int] = 9

    @classmethod
    def matches(cls, row: Values) -> str | None:
        """A list of judged answers; the reason says by what."""
        prompt, ranking = cls.name_in(row, "prompt"), _ranking(row)
        if prompt is None or ranking is None:
            return None
        return f"{quoted_keys((prompt, ranking.answers))}: the best answer against the worst by '{ranking.verdict}'"

    @classmethod
    def used(cls, row: Values) -> set[str]:
        """The list may have any of several names."""
        ranking = _ranking(row)
        return super().used(row) | ({ranking.answers} if ranking else set())

    def to_example(self, row: Values) -> Example | Skipped:
        """The best and the worst answer to the prompt; the difference of their numbers is the margin."""
        ranking = _ranking(row)
        if ranking is None:
            found = described(row["answers"]) if "answers" in row else "missing"
            raise DataError(f"'answers' is {found}; it must be a list of answers with ranks or scores")
        prompt = asked_in(row.get("prompt")) or before_answer(self, row, "prompt", "input")
        judged = [_judged(item, ranking, index) for index, item in enumerate(_items(row[ranking.answers]))]
        (best, good), (worst, bad) = (choose(judged, key=lambda pair: pair[1]) for choose in (max, min))
        if good == bad:
            return Skipped(A_TIE)
        whole = tuple(
            (Conversation((*prompt, Message("assistant", text)), prompt_turns=len(prompt)), score)
            for text, score in judged
        )
        return replace(answers_to(prompt, best, worst, good - bad), ranking=whole)


def _items(value: object) -> Sequence[object]:
    found = parsed(value)
    return found if isinstance(found, list) else ()


def _ranking(row: Values) -> Ranking | None:
    """How this row is written, told from the first answer."""
    for ranking in RANKINGS:
        first = next(iter(_items(row.get(ranking.answers))), None)
        if isinstance(first, dict) and ranking.text in first and ranking.verdict in first:
            return ranking
    return None


def _judged(item: object, ranking: Ranking, index: int) -> tuple[str, float]:
    """An answer and how good it is: higher is better."""
    place = f"{ranking.answers}[{index}]"
    if not isinstance(item, dict):
        raise DataError(f"{place} is {described(item)}; it must be an object with '{ranking.text}'")
    try:
        number = number_of(item, ranking.verdict)
        return text_of(item, ranking.text), -number if ranking.lowest else number
    except DataError as error:
        raise DataError(f"{place}: {error}") from None
