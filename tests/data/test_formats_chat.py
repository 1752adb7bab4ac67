"""Lists of turns: OpenAI's, ShareGPT's and what lies between them, tools, and lists that a table holds as text."""

import json

import pytest

from ftune.core.errors import DataError
from ftune.data.example import Conversation, Message, ToolCall
from ftune.data.formats.detect import detect
from ftune.data.formats.turns import TurnsFormat
from ftune.data.row import Row

HI = [{"role": "user", "content": "Hi!"}, {"role": "assistant", "content": "Hello."}]
READ = (Message("user", "Hi!"), Message("assistant", "Hello."))
ADD = {"name": "add", "description": "Adds.", "parameters": {"type": "object", "properties": {}}}


def parse(row):
    return detect([Row(row, "rows.jsonl", 1)]).read(row)


def layout(row):
    return detect([Row(row, "rows.jsonl", 1)]).format.type


def assistant(**turn):
    return {"messages": [HI[0], {"role": "assistant", **turn}]}


@pytest.mark.parametrize("key", ["messages", "conversations", "conversation", "turns", "dialog"])
@pytest.mark.parametrize(
    ("role", "content", "format"), [("role", "content", "messages"), ("from", "value", "sharegpt")]
)
def test_the_list_may_have_any_usual_name_and_the_turns_either_style(key, role, content, format):
    row = {key: [{role: turn["role"], content: turn["content"]} for turn in HI], "id": 1}
    assert layout(row) == format
    assert parse(row) == Conversation(READ)


@pytest.mark.parametrize("write", [json.dumps, repr])
def test_a_list_in_a_cell_of_a_table_is_parsed(write):
    assert parse({"messages": write(HI), "id": "1"}) == Conversation(READ)
    assert parse({"turns": write(["Hi!", "Hello."])}) == Conversation(READ)


def test_a_mixture_of_styles_in_one_turn_is_read():
    row = {"messages": [{"role": "user", "value": "Hi!"}, {"from": "gpt", "content": "Hello."}]}
    assert parse(row) == Conversation(READ)


def test_sharegpt_roles_get_their_usual_names():
    turns = [{"from": name, "value": name} for name in ("system", "human", "gpt", "observation", "chatgpt", "Human")]
    roles = [turn.role for turn in parse({"conversations": turns}).messages]
    assert roles == ["system", "user", "assistant", "tool", "assistant", "user"]


@pytest.mark.parametrize("key", ["turns", "data", "dialog", "conversations"])
def test_turns_without_roles_alternate(key):
    assert layout({key: ["Hi!"]}) == "turns"
    assert parse({key: ["Hi!", "Hello.", "Bye."]}) == Conversation((*READ, Message("user", "Bye.")))


def test_no_turns_without_roles_are_refused():
    with pytest.raises(DataError, match="'turns' is empty"):
        TurnsFormat().to_example({"turns": []})


def test_a_prompt_and_a_completion_may_be_turns():
    assert parse({"prompt": HI[:1], "completion": HI[1:]}) == Conversation(READ, prompt_turns=1)


def test_a_conversation_of_prompts_only_is_still_one():
    assert parse({"messages": HI[:1]}) == Conversation(READ[:1])


def test_a_system_text_stands_before_the_turns_once():
    system = Message("system", "Be short.")
    first = {"role": "system", "content": "Be short."}
    assert parse({"messages": HI, "system": "Be short."}) == Conversation((system, *READ))
    assert parse({"messages": [first, *HI], "system": "Be short."}) == Conversation((system, *READ))
    with pytest.raises(DataError, match="a system text and its first turn is another"):
        parse({"messages": [first, *HI], "system": "Be long."})


def test_content_in_parts_is_put_together():
    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo."}]
    assert parse(assistant(content=parts)) == Conversation(READ)


@pytest.mark.parametrize("arguments", [{"a": 1}, '{"a": 1}'])
@pytest.mark.parametrize("content", [{}, {"content": None}, {"content": "Let me see."}])
def test_calls_of_tools_are_read(arguments, content):
    call = {"id": "1", "type": "function", "function": {"name": "add", "arguments": arguments}}
    row = assistant(tool_calls=[call], **content)
    row["messages"].append({"role": "tool", "tool_call_id": "1", "content": "2"})
    wanted = Message("assistant", content.get("content") or "", (ToolCall("add", {"a": 1}),))
    assert parse(row) == Conversation((READ[0], wanted, Message("tool", "2")))


def test_a_call_without_arguments_has_none():
    assert parse(assistant(tool_calls=[{"name": "now", "arguments": ""}])).messages[1].tool_calls == (
        ToolCall("now", {}),
    )


def test_sharegpt_calls_of_tools_are_read():
    call, two = {"name": "add", "arguments": {"a": [1, 2]}}, [{"name": "one"}, {"name": "two"}]
    turns = [
        {"from": "human", "value": "Hi!"},
        {"from": "function_call", "value": json.dumps(call)},
        {"from": "observation", "value": "3"},
        {"from": "function_call", "value": json.dumps(two)},
    ]
    assert parse({"conversations": turns}).messages[1:] == (
        Message("assistant", "", (ToolCall("add", {"a": [1, 2]}),)),
        Message("tool", "3"),
        Message("assistant", "", (ToolCall("one", {}), ToolCall("two", {}))),
    )


@pytest.mark.parametrize("write", [lambda tools: tools, json.dumps, lambda tools: [json.dumps(tool) for tool in tools]])
@pytest.mark.parametrize("tool", [ADD, {"type": "function", "function": ADD}])
def test_tools_come_into_one_form(write, tool):
    assert parse({"messages": HI, "tools": write([tool])}).tools == ({"type": "function", "function": ADD},)


@pytest.mark.parametrize("none", [None, "", "[]", []])
def test_no_tools_are_no_tools(none):
    assert parse({"messages": HI, "tools": none}) == Conversation(READ)


@pytest.mark.parametrize(
    ("row", "cause"),
    [
        ({"messages": []}, "'messages' is empty"),
        ({"conversations": []}, "'conversations' is empty"),
        ({"messages": "Hi"}, "'messages' is the text 'Hi'; it must be a list of turns"),
        ({"messages": "[{'role':"}, "'messages' is the text .*; it must be a list of turns"),
        ({"messages": ["Hi"]}, r"messages\[0\] is the text 'Hi'; a turn is an object"),
        ({"messages": [*HI, None]}, r"messages\[2\] is null; a turn is an object"),
        ({"messages": [{"role": "usr", "content": "Hi"}]}, r"messages\[0\]: .*'usr' is not known; did you mean 'user'"),
        ({"messages": [{"role": "user", "contents": "Hi"}]}, "'content' is missing; did you mean 'contents'"),
        ({"messages": [{"role": "user", "content": None}]}, "'content' is null; it must be text"),
        ({"messages": [{"role": "user", "content": 3}]}, "'content' is the number 3; it must be text"),
        (assistant(content=[]), "'content' is a list of 0; it must be text"),
        (assistant(content=["Hi"]), "'content', part 1 is the text 'Hi'; a part is an object"),
        (assistant(content=[{"type": "image_url", "image_url": "x"}]), "part 1 is of type 'image_url'; only parts of"),
        (assistant(content=[{"type": "text", "text": None}]), "part 1 is null; it must be text"),
        (assistant(content="", tool_calls=[{}]), r"messages\[1\]: 'tool_calls': 'name' is missing"),
        (assistant(content="", tool_calls=3), "'tool_calls' is the number 3; it must be a call"),
        (assistant(tool_calls=[{"name": "add", "arguments": "1, 2"}]), "arguments of 'tool_calls' is the text '1, 2'"),
        (assistant(tool_calls=[{"name": "add", "arguments": {"a": float("nan")}}]), "cannot be written as JSON"),
        ({"messages": [{"role": "user", "content": "", "tool_calls": [{"name": "add"}]}]}, "'user' calls tools; only"),
        ({"conversations": [{"from": "function_call", "value": "add(1)"}]}, "'value' is the text .* must be a call"),
        ({"conversations": [{"from": "function_call", "value": ""}]}, "'value' holds no call"),
        ({"messages": HI, "tools": "add"}, "'tools' is the text 'add'; it must be a list of functions"),
        ({"messages": HI, "tools": [{}]}, r"tools\[0\]: 'name' is missing"),
        ({"messages": HI, "tools": [{"function": 3}]}, r"tools\[0\] is the number 3; a function is an object"),
        ({"messages": HI, "tools": [{**ADD, "description": "\ud800"}]}, r"tools\[0\] holds half a character"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_said_in_words(row, cause):
    with pytest.raises(DataError, match=cause):
        parse(row)
