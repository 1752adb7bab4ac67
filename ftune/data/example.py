"""What a row means, whatever its layout was: the only thing that goes on from a row format."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

Role: TypeAlias = Literal["system", "user", "assistant", "tool"]
ROLES: tuple[Role, ...] = get_args(Role)


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call of a tool; `arguments` is what JSON holds."""

    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation. An assistant that calls tools may say nothing beside it."""

    role: Role
    content: str
    tool_calls: tuple[ToolCall, ...] = ()


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns in order; rendered by the chat template.

    `tools` are the functions that may be called, each as OpenAI's API describes it:
    `{"type": "function", "function": {"name": ..., "description": ..., "parameters": {...}}}`. The first
    `prompt_turns` turns are context only: no mask but `all` ever trains them.
    """

    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    prompt_turns: int = 0


@dataclass(frozen=True, slots=True)
class PromptCompletion:
    """Raw model text in two parts; no chat template takes part."""

    prompt: str
    completion: str


@dataclass(frozen=True, slots=True)
class Text:
    """One raw document; no chat template takes part."""

    text: str


Answered: TypeAlias = Conversation | PromptCompletion


@dataclass(frozen=True, slots=True)
class Preference:
    """Two answers to one prompt, the better one first; both sides hold the prompt (`prompt_turns`, or its text)."""

    chosen: Answered
    rejected: Answered
    margin: float | None = None
    """By how much the chosen answer is better, where the row has scores."""
    ranking: tuple[tuple[Answered, float], ...] = ()
    """All answers with how good each is, higher is better, where the row ranks several: the chosen and the rejected
    one are its best and its worst."""


@dataclass(frozen=True, slots=True)
class Feedback:
    """One answer, judged good or bad (KTO)."""

    example: Answered
    good: bool


Plain: TypeAlias = Answered | Text
"""What is one sequence of tokens."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """A text and its class, for a classifier: the text itself is what is read."""

    text: Text
    label: str


Example: TypeAlias = Plain | Preference | Feedback


@dataclass(frozen=True, slots=True)
class Skipped:
    """A row that is right but of no use, such as a tie between two answers: dropped and counted, never an error."""

    cause: str
