"""Every row format: its example row parses, it is detected, and what does not fit is said in words."""

import json

import pytest

from ftune.core.errors import DataError
from ftune.core.variants import variants_of
from ftune.data.example import Conversation, Message, PromptCompletion, Text
from ftune.data.formats.base import RowFormat
from ftune.data.formats.detect import detect
from ftune.data.row import Row

FORMATS = variants_of(RowFormat)


def example_row(cls):
    """The row in the class's docstring: the line that begins with a brace."""
    return json.loads(next(line for line in cls.__doc__.splitlines() if line.strip().startswith("{")))


def rows(*values):
    return [Row(value, "rows.jsonl", number) for number, value in enumerate(values, 1)]


@pytest.mark.parametrize("name", FORMATS)
def test_the_example_row_of_each_format_parses_and_is_detected(name):
    row = example_row(FORMATS[name])
    assert FORMATS[name]().to_example(row)
    detected = detect(rows(row))
    assert detected.format.type == name
    assert "key" in detected.reason


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("wrong", [None, 3, float("nan"), True, ["a"], {"a": 1}, "\ud800"])
def test_a_wrong_value_under_any_needed_key_is_an_error_in_words(name, wrong):
    for key in FORMATS[name].keys:
        with pytest.raises(DataError, match=key):
            FORMATS[name]().to_example({**example_row(FORMATS[name]), key: wrong})


@pytest.mark.parametrize("name", FORMATS)
def test_a_missing_key_is_named(name):
    for key in FORMATS[name].keys:
        row = example_row(FORMATS[name])
        del row[key]
        with pytest.raises(DataError, match=key):
            FORMATS[name]().to_example(row)


def parse(row):
    return detect(rows(row)).format.to_example(row)


def test_alpaca_puts_a_blank_line_before_the_input():
    row = {"instruction": "Add.", "input": "1 2", "output": "3", "system": "Be exact."}
    turns = (Message("system", "Be exact."), Message("user", "Add.\n\n1 2"), Message("assistant", "3"))
    assert parse(row) == Conversation(turns)


@pytest.mark.parametrize("empty", [{"input": ""}, {"input": None}, {}])
def test_alpaca_without_an_input_is_the_instruction(empty):
    turns = (Message("user", "Add."), Message("assistant", ""))
    assert parse({"instruction": "Add.", "output": ""} | empty) == Conversation(turns)


def test_sharegpt_roles_get_their_usual_names():
    turns = [{"from": name, "value": name} for name in ("system", "human", "gpt", "observation", "chatgpt")]
    roles = [turn.role for turn in parse({"conversations": turns}).messages]
    assert roles == ["system", "user", "assistant", "tool", "assistant"]


def test_raw_rows_are_taken_as_they_stand():
    assert parse({"prompt": " a ", "completion": " b"}) == PromptCompletion(" a ", " b")
    assert parse({"text": " a "}) == Text(" a ")


def test_the_layout_with_more_structure_wins():
    row = {"messages": [{"role": "user", "content": "Hi"}], "prompt": "Hi", "completion": "x", "text": "Hi x"}
    assert detect(rows(row)).format.type == "messages"
    assert detect(rows({"prompt": "Hi", "completion": "x", "text": "Hi x"})).format.type == "prompt_completion"


@pytest.mark.parametrize(
    ("row", "cause"),
    [
        ({"messages": []}, "'messages' is empty"),
        ({"messages": "Hi"}, "'messages' is the text 'Hi'; it must be a list of turns"),
        ({"messages": ["Hi"]}, r"messages\[0\] is the text 'Hi'; a turn is an object"),
        ({"messages": [{"role": "usr", "content": "Hi"}]}, r"messages\[0\]: .*'usr' is not known; did you mean 'user'"),
        ({"messages": [{"role": "user", "contents": "Hi"}]}, "'content' is missing; did you mean 'contents'"),
        ({"messages": [{"role": "user", "content": None}]}, "'content' is null; it must be text"),
        ({"conversations": [{"from": "function_call", "value": "{}"}]}, "'function_call' is not known"),
        ({"messages": [{"role": "user", "content": "Hi"}], "tools": [{}]}, "'tools', which are not supported yet"),
        ({"messages": [{"role": "assistant", "content": "", "tool_calls": [{}]}]}, "'tool_calls', which are not"),
        ({"instruction": " ", "output": "x"}, "both empty"),
        ({"text": " \n"}, "'text' is empty"),
    ],
)
def test_what_does_not_fit_is_said_in_words(row, cause):
    with pytest.raises(DataError, match=cause):
        parse(row)


def test_keys_that_are_not_used_are_named():
    reason = detect(rows({"prompt": "a", "completion": "b", "label": True}, {"prompt": "a", "completion": "b"})).reason
    assert reason == "keys 'prompt' and 'completion' in the first 2 rows; not used: key 'label'"


def test_an_unknown_layout_says_what_was_found_and_what_is_known():
    with pytest.raises(DataError) as error:
        detect(rows({"question": "1+1", "answer": "2"}))
    message = str(error.value)
    assert message.startswith("rows.jsonl:1: ")
    assert "found keys 'question' and 'answer'" in message
    assert all(name in message for name in FORMATS)
    assert "columns: {prompt: question, completion: answer}" in message


def test_mixed_layouts_name_the_first_row_that_differs():
    mixed = rows({"text": "a"}, {"text": "b"}, {"prompt": "a", "completion": "b"})
    with pytest.raises(DataError, match=r"^rows.jsonl:3: .*prompt_completion.*rows.jsonl:1.*text"):
        detect(mixed)
