"""Converted rows: ftune reads each back as the example that it came from, and a file is whole or not there."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftune.data.convert import to_messages, write_rows
from ftune.data.example import (
    Conversation,
    Feedback,
    Message,
    Preference,
    PromptCompletion,
    Text,
    ToolCall,
)
from ftune.data.formats.detect import detect
from ftune.data.row import Row

TOOL = {"type": "function", "function": {"name": "weather", "description": "Now", "parameters": {"type": "object"}}}

words = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
said = words.filter(lambda text: text.strip())
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**50), 2**50) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)
calls = st.builds(ToolCall, said, st.dictionaries(words, json_values, max_size=3))
exchanges = st.lists(st.tuples(words, words, st.lists(calls, max_size=2)), min_size=1, max_size=3)


@st.composite
def turns(draw):
    """An optional system turn, then users and assistants in turn; calls are answered."""
    messages = [Message("system", draw(said))] if draw(st.booleans()) else []
    for asked, answer, called in draw(exchanges):
        messages += [Message("user", asked), Message("assistant", answer, tuple(called))]
        messages += [Message("tool", draw(words)) for _ in called]
        messages += [Message("assistant", draw(words))] if called else []
    return tuple(messages)


tools = st.sampled_from([(), (TOOL,)])
chats = st.builds(Conversation, turns(), tools)
margins = st.none() | st.floats(-100, 100)


def answered(prompt, answer, tools):
    return Conversation((*prompt, Message("assistant", answer)), tools, len(prompt))


@st.composite
def pairs(draw):
    prompt = (*draw(turns()), Message("user", draw(words)))
    better, worse = draw(st.lists(words, min_size=2, max_size=2, unique=True))
    described = draw(tools)
    return Preference(answered(prompt, better, described), answered(prompt, worse, described), draw(margins))


raw = st.builds(PromptCompletion, words, words)
judged_chats = st.builds(lambda chat: Conversation(chat.messages, chat.tools, len(chat.messages) - 1), chats)
judged = st.builds(Feedback, judged_chats | raw, st.booleans())
examples = chats | raw | st.builds(Text, said) | pairs() | judged


def read(row):
    """What ftune understands of one row, once it has been a line of JSON."""
    rows = [Row(json.loads(json.dumps(row, ensure_ascii=False)), "rows.jsonl", 1)]
    return detect(rows).read(rows[0].values)


@given(examples)
def test_every_example_is_read_back_as_an_equal_one(example):
    assert read(to_messages(example)) == example


@pytest.mark.parametrize("margin", [None, 0.5])
def test_a_raw_pair_is_read_back_as_an_equal_one(margin):
    sides = (
        PromptCompletion("The capital of France is", " Paris."),
        PromptCompletion("The capital of France is", " Rome."),
    )
    assert read(to_messages(Preference(*sides, margin))) == Preference(*sides, margin)


def test_calls_and_tools_are_written_as_the_api_has_them():
    call = Message("assistant", "", (ToolCall("weather", {"city": "Köln"}),))
    row = to_messages(Conversation((Message("user", "Rain?"), call), (TOOL,)))
    assert row["messages"][1]["tool_calls"] == [
        {"type": "function", "function": {"name": "weather", "arguments": '{"city": "Köln"}'}}
    ]
    assert row["tools"] == [TOOL]
    assert list(row["messages"][0]) == ["role", "content"]


def test_a_pair_without_a_common_turn_is_written_whole():
    one, other = (
        Conversation((Message("user", asked), Message("assistant", "Yes."))) for asked in ("Is it?", "Was it?")
    )
    row = to_messages(Preference(one, other))
    assert set(row) == {"chosen", "rejected"}
    assert row["rejected"][0] == {"role": "user", "content": "Was it?"}


def test_rows_are_written_in_order_one_a_line_without_escapes(tmp_path):
    file = tmp_path / "new" / "rows.jsonl"
    assert write_rows(file, [{"text": "Grüße\n\u2028"}, {"text": "2"}]) == 2
    lines = file.read_bytes().split(b"\n")
    assert "Grüße".encode() in lines[0]
    assert [json.loads(line) for line in lines if line] == [{"text": "Grüße\n\u2028"}, {"text": "2"}]


def test_no_rows_are_an_empty_file(tmp_path):
    assert write_rows(tmp_path / "rows.jsonl", []) == 0
    assert (tmp_path / "rows.jsonl").read_bytes() == b""


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text("old")

    def broken():
        yield {"text": "1"}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_rows(file, broken())
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]
    assert file.read_text() == "old"


def test_an_answer_that_is_context_only_stays_so():
    turns = (Message("user", "a"), Message("assistant", "b"), Message("user", "c"), Message("assistant", "d"))
    example = Conversation(turns, prompt_turns=3)
    row = to_messages(example)
    assert [turn.get("weight") for turn in row["messages"]] == [None, 0, None, None]
    assert detect([Row(row, "rows.jsonl", 1)]).read(row).messages == turns
    assert detect([Row(row, "rows.jsonl", 1)]).read(row).prompt_turns >= 2
