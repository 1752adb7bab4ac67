"""KTO rows: one answer, judged good or bad (arXiv:2402.01306)."""

from dataclasses import replace
from typing import ClassVar, Literal

from ftune.core.errors import DataError
from ftune.data.example import Answered, Conversation, Example, Feedback
from ftune.data.formats.base import RowFormat, Values, described, quoted_keys
from ftune.data.formats.chat import conversation, list_name, prompt_and_completion

JUDGED = {"true": True, "false": False, "1": True, "0": False}
"""Labels, as small letters."""

RAW = ("prompt", "completion")


class KTOFormat(RowFormat):
    """A conversation, or a prompt and its completion, with a label: whether the last answer is good.

    {"messages": [{"role": "user", "content": "Hi!"}, {"role": "assistant", "content": "Hello."}], "label": true}
    """

    type: Literal["kto"] = "kto"
    keys: ClassVar[tuple[str, ...]] = ("messages", "label")
    optional: ClassVar[tuple[str, ...]] = ("prompt", "completion", "system", "system_prompt", "tools")
    rank: ClassVar[int] = 10

    @classmethod
    def name_in(cls, row: Values, key: str) -> str | None:
        """The list may have any name that chat data uses."""
        return list_name(row, key) if key == "messages" else super().name_in(row, key)

    @classmethod
    def matches(cls, row: Values) -> str | None:
        """A true or false label beside an answer: other labels mean something else."""
        if _judgement(row.get("label")) is None:
            return None
        if name := cls.name_in(row, "messages"):
            return quoted_keys((name, "label"))
        return quoted_keys((*RAW, "label")) if all(key in row for key in RAW) else None

    def to_example(self, row: Values) -> Example:
        """The answer with its judgement."""
        good = _judgement(row.get("label"))
        if good is None:
            found = described(row["label"]) if "label" in row else "missing"
            raise DataError(f"'label' is {found}; it must be true or false")
        name = self.name_in(row, "messages")
        if name is None and any(key in row for key in RAW):
            return Feedback(_judged(prompt_and_completion(row)), good)
        return Feedback(_judged(conversation(row, name or "messages")), good)


def _judgement(label: object) -> bool | None:
    return JUDGED.get(str(label).strip().lower()) if isinstance(label, bool | int | str) else None


def _judged(answered: Answered) -> Answered:
    """The answer that is judged is the last turn, where the row does not say which turns are the prompt."""
    if not isinstance(answered, Conversation):
        return answered
    if answered.messages[-1].role != "assistant":
        raise DataError(f"the last turn is the {answered.messages[-1].role}'s; it must be the answer that is judged")
    return replace(answered, prompt_turns=answered.prompt_turns or len(answered.messages) - 1)
