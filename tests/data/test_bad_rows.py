"""Rows that are wrong in themselves: each ends the run with its place and cause, or is dropped and counted."""

import json

import pytest

from ftune.core.errors import DataError
from ftune.data.intake import Rules
from ftune.data.prepare import prepare
from ftune.data.source import read_rows


def chat(*turns):
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


GOOD = chat(("user", "Who are you?"), ("assistant", "A small model."))
PAIR = {"prompt": "Who are you?", "chosen": "A small model.", "rejected": "Nobody."}
ALPACA = {"instruction": "Who are you?", "output": "A small model."}

CHATS = {
    "a number where text should be": (chat(("user", 7), ("assistant", "x")), "messages[0]: 'content' is the number 7"),
    "a truth value where text should be": (chat(("user", "x"), ("assistant", True)), "'content' is the truth value"),
    "no list of turns": ({"messages": "Hi"}, "'messages' is"),
    "null where turns should be": ({"messages": None}, "'messages' is null"),
    "no turns at all": ({"messages": []}, "'messages' is empty"),
    "a turn that is no object": ({"messages": ["Hi"]}, "messages[0] is the text 'Hi'"),
    "a turn without content": ({"messages": [{"role": "user"}]}, "messages[0]: 'content' is missing"),
    "a role that is not known": (chat(("wizard", "x"), ("assistant", "y")), "the role 'wizard' is not known"),
    "no assistant turn": (chat(("user", "x")), "nothing to train on: the row has no answer"),
    "a missing field": ({"message": "x"}, "'messages' is missing"),
    "half a character": (chat(("user", "x\ud800"), ("assistant", "y")), "half a character"),
    "not a number": ({"messages": float("nan")}, "'messages' is the number nan"),
}
READ = {
    "two user turns in a row": chat(("user", "x"), ("user", "y"), ("assistant", "z")),
    "an answer first": chat(("assistant", "x"), ("user", "y"), ("assistant", "z")),
    "control characters": chat(("user", "a\x00b\x1b[31m"), ("assistant", "c\u200bd")),
    "an empty answer": chat(("user", "x"), ("assistant", "")),
    "blanks": chat(("user", "  "), ("assistant", " x ")),
}
PAIRS = {
    "chosen is rejected": (PAIR | {"rejected": PAIR["chosen"]}, "the same"),
    "a side is missing": ({key: PAIR[key] for key in ("prompt", "chosen")}, "'rejected' is missing"),
    "a side is null": (PAIR | {"rejected": None}, "'rejected' is null"),
}
INSTRUCTIONS = {
    "an empty instruction": (ALPACA | {"instruction": " "}, "empty"),
    "null": (ALPACA | {"output": None}, "'output' is null"),
    "a list": (ALPACA | {"output": ["a"]}, "'output' is a list of 1"),
}


@pytest.fixture
def prepared(tmp_path, smollm2):
    def call(good, bad, **rules):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in (good, bad, good, good)))
        return prepare(read_rows(str(path)), None, smollm2.tokenizer, smollm2.template, Rules(**rules))

    return call


@pytest.mark.parametrize(
    ("good", "bad", "cause", "rules"),
    [
        *(pytest.param(GOOD, *case, {}, id=name) for name, case in CHATS.items()),
        *(pytest.param(PAIR, *case, {"answers": "both"}, id=name) for name, case in PAIRS.items()),
        *(pytest.param(ALPACA, *case, {}, id=name) for name, case in INSTRUCTIONS.items()),
    ],
)
def test_a_bad_row_ends_the_run_or_is_dropped_and_counted(prepared, tmp_path, good, bad, cause, rules):
    with pytest.raises(DataError) as error:
        prepared(good, bad, **rules)
    (line,) = str(error.value).splitlines()
    assert line.startswith(f"{tmp_path / 'rows.jsonl'}:2: ")
    assert cause in line
    counts = prepared(good, bad, on_bad_row="drop", **rules).counts
    assert (counts.read, counts.kept, sum(counts.dropped.values())) == (4, 3, 1)
    assert counts.faults == [line]


@pytest.mark.parametrize("name", READ)
def test_odd_rows_are_read_as_they_stand(prepared, name):
    counts = prepared(GOOD, READ[name]).counts
    assert (counts.read, counts.kept) == (4, 4)
    assert counts.empty_completions == (name == "an empty answer")


def test_bytes_in_another_encoding_cost_their_row_and_the_remedy_is_named(tmp_path, smollm2):
    path = tmp_path / "rows.jsonl"
    lines = [json.dumps(GOOD).encode(), '{"instruction": "é", "output": "x"}'.encode("latin-1")]
    lines = [json.dumps(ALPACA).encode(), lines[1], json.dumps(ALPACA).encode()]
    path.write_bytes(b"\n".join(lines))
    options = (None, smollm2.tokenizer, smollm2.template)
    with pytest.raises(
        DataError, match=r"rows.jsonl:2: 'instruction' holds the byte 0xe9, which is not UTF-8.*latin-1"
    ):
        prepare(read_rows(str(path)), *options, Rules())
    assert prepare(read_rows(str(path)), *options, Rules(on_bad_row="drop")).counts.kept == 2
    assert prepare(read_rows(str(path), encoding="latin-1"), *options, Rules()).counts.kept == 3


def test_mixed_layouts_are_named_or_the_commonest_is_taken(prepared):
    with pytest.raises(DataError, match=r"rows.jsonl:2: .*text.*rows.jsonl:1.*messages"):
        prepared(GOOD, {"text": "plain"})
    part = prepared(GOOD, {"text": "plain"}, on_bad_row="drop")
    assert (part.format, part.counts.kept) == ("messages", 3)
