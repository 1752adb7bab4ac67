"""What a row means, whatever its layout was: the only thing that goes on from a row format."""

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

Role: TypeAlias = Literal["system", "user", "assistant", "tool"]
ROLES: tuple[Role, ...] = get_args(Role)


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns in order; rendered by the chat template."""

    messages: tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class PromptCompletion:
    """Raw model text in two parts; no chat template takes part."""

    prompt: str
    completion: str


@dataclass(frozen=True, slots=True)
class Text:
    """One raw document; no chat template takes part."""

    text: str


Example: TypeAlias = Conversation | PromptCompletion | Text
