"""KTO rows: one answer, judged good or bad (arXiv:2402.01306)."""

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar, Literal

from ftune.core.errors import DataError
from ftune.data.example import Answered, Conversation, Example, Feedback
from ftune.data.formats.base import SYSTEM, RowFormat, Values, described, quoted_keys
from ftune.data.formats.chat import conversation, list_name, prompt_and_completion
from ftune.data.formats.exchange import exchange
from ftune.data.formats.tools import TOOLS

JUDGED = {"true": True, "false": False, "1": True, "0": False}
"""Labels, as small letters."""

RAW = ("prompt", "completion")
"""Both as texts are raw text, as TRL has them; under other names they are a chat."""

JUDGEMENTS = ("label", "kto_tag", "is_safe")
"""Names of the judgement: TRL's, LLaMA-Factory's, BeaverTails'."""


class KTOFormat(RowFormat):
    """A conversation, or a prompt and its completion, with a label: whether the last answer is good.

    {"messages": [{"role": "user", "content": "Hi!"}, {"role": "assistant", "content": "Hello."}], "label": true}
    """

    type: Literal["kto"] = "kto"
    keys: ClassVar[tuple[str, ...]] = ("messages", "label")
    optional: ClassVar[tuple[str, ...]] = ("prompt", "input", "completion", "system", "tools")
    names: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "label": JUDGEMENTS,
        "prompt": ("prompt", "question", "instruction", "query"),
        "completion": ("completion", "response", "output", "answer"),
        "system": SYSTEM,
        "tools": TOOLS,
    }
    rank: ClassVar[int] = 10

    @classmethod
    def name_in(cls, row: Values, key: str) -> str | None:
        """The list may have any name that chat data uses."""
        return list_name(row, key) if key == "messages" else super().name_in(row, key)

    @classmethod
    def matches(cls, row: Values) -> str | None:
        """A true or false label beside an answer: other labels mean something else."""
        label = cls.name_in(row, "label") or "label"
        if _judgement(row.get(label)) is None:
            return None
        if name := cls.name_in(row, "messages"):
            return quoted_keys((name, label))
        found = tuple(name for key in RAW if (name := cls.name_in(row, key)))
        judged = found == RAW or (len(found) == len(RAW) and _is_truth_value(row[label]))
        return quoted_keys((*found, label)) if judged else None

    def to_example(self, row: Values) -> Example:
        """The answer with its judgement."""
        label = self.name_in(row, "label") or "label"
        good = _judgement(row.get(label))
        if good is None:
            found = described(row[label]) if label in row else "missing"
            raise DataError(f"'{label}' is {found}; it must be true or false")
        name = self.name_in(row, "messages")
        if name is None and all(key in row for key in RAW):
            return Feedback(_judged(prompt_and_completion(row)), good)
        if name is None and self.name_in(row, "completion"):
            return Feedback(_judged(exchange(self, row, ("prompt", "input"), self.text_under(row, "completion"))), good)
        return Feedback(_judged(conversation(row, name or "messages")), good)


def _is_truth_value(label: object) -> bool:
    """Whether it says true or false: the numbers 0 and 1 may be classes."""
    return str(label).strip().lower() in ("true", "false")


def _judgement(label: object) -> bool | None:
    return JUDGED.get(str(label).strip().lower()) if isinstance(label, bool | int | str) else None


def _judged(answered: Answered) -> Answered:
    """The answer that is judged is the last turn, where the row does not say which turns are the prompt."""
    if not isinstance(answered, Conversation):
        return answered
    if answered.messages[-1].role != "assistant":
        raise DataError(f"the last turn is the {answered.messages[-1].role}'s; it must be the answer that is judged")
    return replace(answered, prompt_turns=answered.prompt_turns or len(answered.messages) - 1)
