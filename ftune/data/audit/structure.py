"""What is wrong with the shape of an example: its turns, its tool calls, its two sides."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from ftune.data.example import Answered, Conversation, Example, Feedback, Message, Preference, PromptCompletion, Text


def shape_faults(example: Example) -> set[str]:
    """The ids of rules that this example breaks."""
    match example:
        case Conversation():
            return set(_conversation_faults(example))
        case PromptCompletion():
            return set() if example.completion.strip() else {"empty_answers"}
        case Text():
            return set()
        case Preference():
            return shape_faults(example.chosen) | shape_faults(example.rejected) | set(_pair_faults(example))
        case Feedback():
            return shape_faults(example.example)


def _pair_faults(example: Preference) -> Iterator[str]:
    if example.chosen == example.rejected:
        yield "equal_sides"
    if _prompt(example.chosen) != _prompt(example.rejected):
        yield "prompts_differ"


def _prompt(side: Answered) -> str | tuple[Message, ...]:
    """What stands before the last answer."""
    return side.prompt if isinstance(side, PromptCompletion) else side.messages[:-1]


def _conversation_faults(example: Conversation) -> Iterator[str]:
    messages = example.messages
    yield from _role_faults([message.role for message in messages])
    if any(_says_nothing(message) for message in messages[example.prompt_turns :]):
        yield "empty_answers"
    if _tools_unasked(messages):
        yield "tools_unasked"


def _role_faults(roles: Sequence[str]) -> Iterator[str]:
    if "system" in roles[1:]:
        yield "roles_system_late"
    spoken = [role for role in roles if role != "system"]
    if spoken[:1] != ["user"]:
        yield "roles_first"
    if spoken[-1:] != ["assistant"]:
        yield "roles_last"
    if any(role == following != "tool" for role, following in pairwise(spoken)):
        yield "roles_repeated"


def _says_nothing(message: Message) -> bool:
    return message.role == "assistant" and not message.tool_calls and not message.content.strip()


def _tools_unasked(messages: Sequence[Message]) -> bool:
    """Whether more tools answer than the assistant's turn before them called."""
    called = 0
    for message in messages:
        called = called - 1 if message.role == "tool" else len(message.tool_calls)
        if called < 0:
            return True
    return False
