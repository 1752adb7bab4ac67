"""Rows with two answers and a verdict: which one wins, or two scores."""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal, NamedTuple

from ftune.core.errors import DataError
from ftune.data.example import Conversation, Example, Message, Role, Skipped
from ftune.data.formats.base import SYSTEM, RowFormat, Values, checked_text, described, quoted_keys, text_of
from ftune.data.formats.cells import parsed
from ftune.data.formats.chat import read_turns, turns_in
from ftune.data.formats.exchange import before_answer
from ftune.data.formats.sides import number_of, one_prompt, preference_of


class Shape(NamedTuple):
    """One way to write it: the columns of the answers, then those of the verdict, and what the verdict may be.

    Two verdict columns are scores, the higher the better.
    """

    answers: tuple[str, str]
    verdict: tuple[str, ...]
    first: tuple[str, ...] = ()
    second: tuple[str, ...] = ()
    tie: tuple[str, ...] = ()


A = ("a", "model_a", "response_a", "assistant_a", "conversation_a")
B = ("b", "model_b", "response_b", "assistant_b", "conversation_b")
TIE = ("tie", "both", "both_bad", "bothbad", "tie (bothbad)", "tie (both bad)")

SHAPES = (
    Shape(("response_a", "response_b"), ("winner",), A, B, TIE),
    Shape(("conversation_a", "conversation_b"), ("winner",), A, B, TIE),  # Chatbot Arena
    Shape(("answer_a", "answer_b"), ("winner",), A, B, TIE),
    Shape(("response_0", "response_1"), ("better_response_id",), ("0",), ("1",), ("-1",)),  # PKU-SafeRLHF
    Shape(("answer_0", "answer_1"), ("score_0", "score_1")),  # WebGPT comparisons
    Shape(("response_a", "response_b"), ("score_a", "score_b")),
    Shape(("response_a", "response_b"), ("winner_model_a", "winner_model_b")),  # Chatbot Arena on Kaggle
    Shape(
        ("response_1", "response_2"), ("preference_strength",), ("-3", "-2", "-1"), ("3", "2", "1"), ("0",)
    ),  # HelpSteer2
    Shape(
        ("response1", "response2"), ("overall_preference",), ("-3", "-2", "-1"), ("3", "2", "1"), ("0",)
    ),  # HelpSteer3
    Shape(("output_1", "output_2"), ("preference",), ("1",), ("2",), ("0", "1.5")),  # AlpacaFarm
    Shape(("human_ref_A", "human_ref_B"), ("labels",), ("1",), ("0",)),  # SHP: 1 where A is better
)

BOTH: tuple[Role, Role] = ("user", "assistant")

A_TIE = "a tie: no answer is better"


class TwoAnswersFormat(RowFormat):
    """Two answers, and the winner's name, its number, or a score for each; a tie is left out and counted.

    An answer is a text after the prompt, or a whole conversation as a list of turns. The prompt is a text, a list of
    turns, or WebGPT's {"full_text": ...}.

    {"prompt": "Name a river.", "response_a": "The Loire.", "response_b": "Paris.", "winner": "model_a"}
    """

    type: Literal["two_answers"] = "two_answers"
    keys: ClassVar[tuple[str, ...]] = ("response_a", "response_b", "winner")
    optional: ClassVar[tuple[str, ...]] = ("prompt", "input", "system")
    names: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "prompt": ("prompt", "instruction", "question", "query", "history", "input", "context"),
        "system": SYSTEM,
    }
    rank: ClassVar[int] = 8

    @classmethod
    def matches(cls, row: Values) -> str | None:
        """Any of the ways to write it."""
        shape = _shape(row)
        return quoted_keys(shape.answers + shape.verdict) if shape else None

    @classmethod
    def used(cls, row: Values) -> set[str]:
        """What is read depends on how the row is written."""
        shape = _shape(row)
        return super().used(row) | set(shape.answers + shape.verdict if shape else ())

    def to_example(self, row: Values) -> Example | Skipped:
        """The winner as chosen, the other as rejected; the difference of scores as the margin."""
        shape = _shape(row) or SHAPES[0]
        better = _lead(shape, row)
        one, other = (self._whole(row, key) for key in shape.answers)
        if better == 0:
            return Skipped(A_TIE)
        margin = abs(better) if len(shape.verdict) == 2 else None
        return one_prompt(preference_of(*((one, other) if better > 0 else (other, one)), margin))

    def _whole(self, row: Values, key: str) -> Conversation:
        turns = turns_in(row.get(key))
        if turns and isinstance(row[key], list | str):
            return Conversation(read_turns(turns, key))
        name = self.name_in(row, "prompt") or "prompt"
        prompt = row.get(name)
        if before := turns_in(prompt) if isinstance(prompt, list | str) else None:
            return Conversation((*read_turns(before, name), Message("assistant", text_of(row, key))))
        said, answered = parsed(prompt), parsed(row.get(key))
        if isinstance(said, list) and isinstance(answered, list):
            return _alternating(said, answered, (name, key))
        if isinstance(prompt, dict) and "full_text" in prompt:
            row = {**row, name: prompt["full_text"]}
        return Conversation((*before_answer(self, row, "prompt", "input"), Message("assistant", text_of(row, key))))


def _alternating(said: Sequence[object], answered: Sequence[object], places: tuple[str, str]) -> Conversation:
    """A list of what the user says and a list of the answers, as Kaggle's copy of Chatbot Arena has them."""
    if not said or len(said) != len(answered):
        raise DataError(f"'{places[0]}' has {len(said)} turns and '{places[1]}' {len(answered)}; they must be as many")
    turns = (
        Message(role, checked_text(text, f"{place}[{index}]"))
        for index, pair in enumerate(zip(said, answered, strict=True))
        for role, text, place in zip(BOTH, pair, places, strict=True)
    )
    return Conversation(tuple(turns))


def _shape(row: Values) -> Shape | None:
    return next((shape for shape in SHAPES if all(key in row for key in shape.answers + shape.verdict)), None)


def _lead(shape: Shape, row: Values) -> float:
    """By how much the first answer is better: below 0 where the second is, 0 for a tie."""
    if len(shape.verdict) == 2:
        first, second = (number_of(row, key) for key in shape.verdict)
        return first - second
    (key,) = shape.verdict
    found = _verdict(row, key)
    if found not in shape.first + shape.second + shape.tie:
        allowed = ", ".join(f"'{word}'" for word in shape.first[:2] + shape.second[:2] + shape.tie[:1])
        raise DataError(f"'{key}' is {described(row[key])}; it must be one of {allowed}")
    return float((found in shape.first) - (found in shape.second))


def _verdict(row: Values, key: str) -> str:
    """The verdict in small letters; 2.0, as tables write whole numbers, is 2."""
    value = row.get(key)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return text_of(row, key).strip().lower()
