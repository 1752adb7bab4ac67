"""What a chat template does with tools: found out by rendering, never guessed from its text."""

from dataclasses import dataclass, replace

from ftune.core.errors import DataError
from ftune.data.example import Conversation, Message, ToolCall
from ftune.data.template import Render, as_turn

NAME, DESCRIPTION, PARAMETER, CALLED, ARGUMENT, VALUE, OTHER, SAID, OUTPUT = (f"ftune{n}sentinel" for n in range(9))
"""Words that no template writes by itself, and that no escaping of JSON changes."""

TOOL = {
    "type": "function",
    "function": {
        "name": NAME,
        "description": DESCRIPTION,
        "parameters": {"type": "object", "properties": {PARAMETER: {"type": "string"}}},
    },
}
QUESTION, ANSWER = Message("user", "a"), Message("assistant", "b")
CALL = Message("assistant", "", (ToolCall(CALLED, {ARGUMENT: VALUE}),))


@dataclass(frozen=True, slots=True)
class ToolSupport:
    """What of tools appears in a template's renderings."""

    calls: bool
    """Both descriptions of tools and calls."""
    text_beside_call: bool
    """What an assistant says beside a call."""
    several_calls: bool
    """More than one call in one turn."""
    outputs: bool
    """Turns of role `tool`."""

    def check(self, conversation: Conversation) -> None:
        """DataError names the first turn of which the template would leave something out without a word."""
        for number, message in enumerate(conversation.messages, start=1):
            lost = ""
            if message.tool_calls and message.content.strip() and not self.text_beside_call:
                lost = "the text beside a tool call"
            elif len(message.tool_calls) > 1 and not self.several_calls:
                lost = "all tool calls of a turn but one"
            if lost:
                raise DataError(
                    f"turn {number} (assistant): the chat template has no place for {lost}; change this row, or name "
                    "another template with 'model.chat_template' (chatml has a place for it)"
                )


def tool_support(render: Render) -> ToolSupport:
    """Render small conversations with sentinels, and look which of them come through."""

    def appear(words: tuple[str, ...], *messages: Message) -> bool:
        try:
            rendered = render([as_turn(message) for message in messages], [TOOL], False)
        except DataError:
            return False
        return all(word in rendered for word in words)

    calls = appear((NAME, DESCRIPTION, PARAMETER), QUESTION, ANSWER) and appear(
        (CALLED, ARGUMENT, VALUE), QUESTION, CALL
    )
    two = replace(CALL, tool_calls=(ToolCall(OTHER, {}), *CALL.tool_calls))
    return ToolSupport(
        calls=calls,
        text_beside_call=calls and appear((SAID, CALLED), QUESTION, replace(CALL, content=SAID)),
        several_calls=calls and appear((CALLED, OTHER), QUESTION, two),
        outputs=appear((OUTPUT,), QUESTION, CALL if calls else ANSWER, Message("tool", OUTPUT), ANSWER),
    )
