"""Which layout is taken, and why: rank, tidy keys, mixtures, and what is said where none fits."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftune.core.errors import DataError
from ftune.core.variants import variants_of
from ftune.data.example import Conversation, Message
from ftune.data.formats.alpaca import AlpacaFormat
from ftune.data.formats.base import RowFormat
from ftune.data.formats.detect import detect, named
from ftune.data.row import Row

USER, ANSWER = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}
ALPACA = {"instruction": "Add.", "output": "3"}
ADDED = Conversation((Message("user", "Add."), Message("assistant", "3")))
TIDIED = "; capitals, blanks and dashes in the keys do not count"


def rows(*values):
    return [Row(value, "rows.jsonl", number) for number, value in enumerate(values, 1)]


def layout(row):
    return detect(rows(row)).format.type


@pytest.mark.parametrize(
    ("row", "wanted"),
    [
        ({"messages": [USER], "prompt": "Hi", "completion": "x", "text": "Hi x"}, "messages"),
        ({"prompt": "Hi", "completion": "x", "text": "Hi x"}, "prompt_completion"),
        ({"messages": [USER, ANSWER], "label": True}, "kto"),
        ({"conversations": [USER], "chosen": ANSWER, "rejected": ANSWER}, "preference_messages"),
        ({**ALPACA, "chosen": "a", "rejected": "b"}, "preference"),
        ({**ALPACA, "input": "", "answer": "3"}, "alpaca"),
        ({"prompt": "Hi", "chosen": '{"role": 1}', "rejected": "{}"}, "preference_messages"),
        ({"prompt": "Hi", "chosen": '{"a": 1}', "rejected": "[1]"}, "preference"),
        ({"instruction": "x", "output_1": "a", "output_2": "b", "preference": 1}, "two_answers"),
        ({"text": "x", "turns": 3, "data": "2020"}, "text"),
        ({"conversations": ["Hi"], "text": "Hi"}, "turns"),
        ({"messages": [USER, ANSWER], "turns": 2}, "messages"),
        ({"text": "x", "data": "2020", "dialog": None}, "text"),
    ],
)
def test_the_layout_that_says_more_wins(row, wanted):
    assert layout(row) == wanted


def test_keys_that_are_not_used_are_named():
    reason = detect(rows({"prompt": "a", "completion": "b", "id": 1}, {"prompt": "a", "completion": "b"})).reason
    assert reason == "keys 'prompt' and 'completion' in the first 2 rows; not used: key 'id'"


@pytest.mark.parametrize("row", [{"Instruction": "Add.", "output ": "3"}, {"INSTRUCTION": "Add.", "Output": "3"}])
def test_keys_that_differ_by_capitals_and_blanks_are_read(row):
    detected = detect(rows(row))
    assert detected.format == AlpacaFormat()
    assert detected.reason == f"keys 'instruction' and 'output'{TIDIED}"
    assert detected.read(row) == ADDED
    by_name = named(AlpacaFormat(), rows(row))
    assert by_name.reason == f"named in the recipe{TIDIED}"
    assert by_name.read(row) == ADDED


def test_blanks_and_dashes_inside_of_a_key_are_underscores():
    row = {"Question": "Add.", "Ground truth": "3", "System-Prompt": None}
    assert detect(rows(row)).read(row) == ADDED


def test_keys_that_fit_as_they_stand_are_left_alone():
    row = {**ALPACA, "Output": "4"}
    detected = detect(rows(row))
    assert not detected.tidy
    assert detected.reason.endswith("not used: key 'Output'")
    assert named(AlpacaFormat(), rows(row)).reason == "named in the recipe"


def test_keys_that_would_become_one_are_not_touched():
    with pytest.raises(DataError, match="not known"):
        detect(rows({"Instruction": "Add.", "instruction ": "Subtract.", "Output": "3"}))


@given(st.lists(st.sampled_from([ALPACA, {"Instruction": "Add.", "OUTPUT": "3"}]), min_size=1, max_size=5))
def test_a_row_reads_alike_in_any_company(values):
    detected = detect(rows(*values))
    exact = [value for value in values if value == ALPACA]
    for value in exact or values:
        assert detected.read(value) == ADDED


def test_a_named_format_is_taken_whatever_the_rows_are():
    detected = named(AlpacaFormat(), rows({"text": "x"}))
    assert (detected.format, detected.reason, detected.tidy) == (AlpacaFormat(), "named in the recipe", False)


def test_mixed_layouts_name_the_first_row_that_differs():
    mixed = rows({"text": "a"}, {"text": "b"}, {"prompt": "a", "completion": "b"})
    with pytest.raises(DataError, match=r"^rows.jsonl:3: .*prompt_completion.*rows.jsonl:1.*text"):
        detect(mixed)


def test_of_mixed_layouts_the_commonest_is_taken_where_the_others_may_be_dropped():
    detected = detect(
        rows({"prompt": "a", "completion": "b"}, {"text": "a"}, {"text": "b", "id": 1}, {}), tolerant=True
    )
    assert detected.format.type == "text"
    assert detected.reason == "key 'text' in 2 of the first 4 rows; not used: key 'id'"


@pytest.mark.parametrize("damaged", [{}, {"instruction": "Add."}, {"instruction": "Add.", "Output": "3"}])
def test_a_row_of_no_layout_is_left_to_be_refused_by_its_own_cause(damaged):
    for values in ([ALPACA, damaged], [damaged, ALPACA]):
        detected = detect(rows(*values))
        assert detected.reason.startswith("keys 'instruction' and 'output' in 1 of the first 2 rows")
        with pytest.raises(DataError, match="is missing"):
            detected.read(damaged)


def unknown(*values):
    with pytest.raises(DataError) as error:
        detect(rows(*values))
    return str(error.value).splitlines()


def test_an_unknown_layout_says_what_was_found_and_what_comes_near():
    lines = unknown({"prompts": "What is 1+1?", "completions": "It is 2.", "id": 7})
    assert lines[0] == "rows.jsonl:1: the layout of this row is not known: found keys 'prompts', 'completions' and 'id'"
    assert lines[1].startswith("nearest: prompt_completion needs keys 'prompt' and 'completion'; ")
    assert all(name in lines[2] for name in variants_of(RowFormat))
    assert lines[3] == "rename columns in the recipe, for example 'columns: {user: prompts, assistant: completions}'"
    assert len(lines) == 4
    assert max(map(len, lines)) < 300


def test_the_advice_is_made_of_the_texts_of_the_row():
    row = {"id": "17", "": "3", "my: poem": "Roses are red.", "date": 3}
    assert unknown(row)[-1] == """rename columns in the recipe, for example 'columns: {text: "my: poem"}'"""
    assert unknown({"id": 3})[-1] == "no column of this row holds text that could be trained on"


def test_a_first_line_that_is_no_header_is_suspected():
    assert "no header line" in unknown({"a warm and funny film": "dull", "1": "0"})[-1]


def test_a_hundred_keys_are_not_all_listed():
    lines = unknown({f"column_{number}": number for number in range(100)})
    assert "'column_11' and 88 more" in lines[0]
    assert max(map(len, lines)) < 300


def test_keys_that_no_terminal_can_print_are_written_out():
    assert "'\\udce9t'" in unknown({"\udce9t": "x"})[0]


def test_no_rows_have_no_layout():
    with pytest.raises(DataError, match="there are no rows"):
        detect([])
