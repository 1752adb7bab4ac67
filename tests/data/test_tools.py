"""Tools in conversations: what templates do with them, the form as text, and what is said when neither works."""

import pytest

from ftune.core.errors import DataError
from ftune.data.example import Conversation, Message, ToolCall
from ftune.data.template import Template, as_turn, choose_template, render
from ftune.data.tokenize import RowTokenizer
from ftune.data.tool_support import ToolSupport, tool_support
from ftune.data.tools import calls_as_text, outputs_as_user_turns

WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
CALL = ToolCall("weather", {"where": "Zürich", "days": 2})
ASKED = (
    Message("user", "How is it?"),
    Message("assistant", "Let me see.", (CALL, ToolCall("clock", {}))),
    Message("tool", "rain"),
    Message("tool", "noon"),
    Message("assistant", "Wet."),
)
TOLD = (
    "You may call these functions, described as JSON, one a line:\n"
    '{"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}\n'
    'To call one, write <tool_call>, then on the next line {"name": ..., "arguments": {...}}, then on the next line '
    "</tool_call>."
)
WRITTEN = (
    'Let me see.\n<tool_call>\n{"name": "weather", "arguments": {"where": "Zürich", "days": 2}}\n</tool_call>\n'
    '<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>'
)


def support_of(tokenizer, text):
    template = Template(text, "inline", "", "inline")
    return tool_support(
        lambda turns, tools, generation_prompt: render(
            tokenizer, template, turns, tools=tools, generation_prompt=generation_prompt
        )
    )


def test_calls_and_descriptions_become_text():
    told = calls_as_text(Conversation(ASKED, (WEATHER,), prompt_turns=2))
    assert told.messages == (Message("system", TOLD), ASKED[0], Message("assistant", WRITTEN), *ASKED[2:])
    assert (told.tools, told.prompt_turns) == ((), 3)


def test_descriptions_follow_the_system_text():
    told = calls_as_text(Conversation((Message("system", "Be kind."), *ASKED), (WEATHER,), prompt_turns=2))
    assert told.messages[0] == Message("system", f"Be kind.\n\n{TOLD}")
    assert (len(told.messages), told.prompt_turns) == (6, 2)


def test_calls_without_descriptions_add_no_system_turn():
    assert calls_as_text(Conversation(ASKED)).messages[0] == ASKED[0]


@pytest.mark.parametrize(("before", "after"), [(0, 0), (2, 2), (3, 3), (4, 3), (5, 4)])
def test_neighbouring_outputs_become_one_user_turn(before, after):
    told = outputs_as_user_turns(Conversation(ASKED, prompt_turns=before))
    responses = "<tool_response>\nrain\n</tool_response>\n<tool_response>\nnoon\n</tool_response>"
    assert told.messages == (*ASKED[:2], Message("user", responses), ASKED[4])
    assert told.prompt_turns == after


@pytest.mark.parametrize(
    ("name", "support"),
    [
        ("hermes", ToolSupport(calls=True, text_beside_call=True, several_calls=True, outputs=True)),
        ("llama3_tools", ToolSupport(calls=True, text_beside_call=False, several_calls=False, outputs=True)),
        ("smollm2", ToolSupport(calls=False, text_beside_call=False, several_calls=False, outputs=True)),
        ("gemma3", ToolSupport(calls=False, text_beside_call=False, several_calls=False, outputs=False)),
    ],
)
def test_support_is_what_the_template_does(family_of, name, support):
    family = family_of(name)
    assert support_of(family.tokenizer, family.template.text) == support


def test_a_template_that_only_speaks_of_tools_supports_none(smollm2):
    text = "{% for turn in messages %}{{ turn.content }}{% if turn.tool_calls or tools %}tools{% endif %}{% endfor %}"
    assert not support_of(smollm2.tokenizer, text).calls


def test_the_shipped_template_writes_the_same_text_by_itself(smollm2):
    chatml = choose_template(smollm2.tokenizer, "chatml")
    for system in ((), (Message("system", "Be kind."),), (Message("system", ""),)):
        example = Conversation((*system, *ASKED, Message("user", "?"), Message("assistant", "", (CALL,))), (WEATHER,))
        told = calls_as_text(example)
        assert render(smollm2.tokenizer, chatml, [as_turn(turn) for turn in told.messages]) == render(
            smollm2.tokenizer, chatml, [as_turn(turn) for turn in example.messages], tools=example.tools
        )
    tokens = RowTokenizer(smollm2.tokenizer, chatml).encode(example)
    assert not tokens.tools_as_text
    assert tokens.answers[0].text == f"{WRITTEN}<|im_end|>"


@pytest.mark.parametrize(
    ("said", "calls", "lost"),
    [("Let me see.", (CALL,), "the text beside a tool call"), ("", (CALL, CALL), "all tool calls of a turn but one")],
)
def test_what_a_template_would_leave_out_is_an_error(family_of, said, calls, lost):
    example = Conversation((Message("user", "?"), Message("assistant", said, calls), Message("assistant", "Wet.")))
    with pytest.raises(DataError, match=rf"turn 2 \(assistant\): the chat template has no place for {lost}.*chatml"):
        family_of("llama3_tools").rows().encode(example)


def test_an_answer_that_only_a_call_begins_and_ends_in_its_way_is_found(smollm2, rows_with):
    """The header of the turn is the model's own writing, and another token ends it, as in the Harmony format."""
    example = Conversation((ASKED[0], Message("assistant", "", (CALL,)), ASKED[2], ASKED[4]), (WEATHER,))
    tokens = rows_with(smollm2.tokenizer, "harmony").encode(example)
    arguments = '{"where": "Zürich", "days": 2}'
    assert [answer.text for answer in tokens.answers] == [
        f" to=weather json\n{arguments}<|endoftext|>",
        "Wet.<|im_end|>",
    ]


def test_the_prompt_of_a_row_without_an_answer_is_all_of_it(family):
    question = Conversation((Message("user", "Who are you?"),))
    prompt = family.rendered(question, generation_prompt=True)
    ids = family.tokenizer(prompt, add_special_tokens=False)["input_ids"]
    assert family.rows().prompt_ids(question) == ids
    answered = Conversation((*question.messages, Message("assistant", "I am.")))
    assert family.rows().prompt_ids(answered) == ids


def test_an_answer_to_nothing_has_no_prompt(smollm2):
    with pytest.raises(DataError, match="begins with its answer"):
        smollm2.rows().prompt_ids(Conversation((Message("assistant", "Hello."),), (WEATHER,)))
