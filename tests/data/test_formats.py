"""Every row format: its example row parses, it is detected, and what does not fit is said in words."""

import json
from contextlib import suppress
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftune.core.errors import DataError
from ftune.core.variants import variants_of
from ftune.data.example import Conversation, Feedback, Message, Preference, PromptCompletion, Skipped, Text
from ftune.data.formats.base import RowFormat
from ftune.data.formats.detect import detect
from ftune.data.row import Row

FORMATS = variants_of(RowFormat)
WRONG = [None, 3, float("nan"), True, ["a"], {"a": 1}, "\ud800", "\udce9"]
RIGHT = {
    ("question_answer", "answer"): [3, ["a"]],
    ("multiple_choice", "answer"): [None],
    ("classification", "label"): [3, True],
    ("kto", "label"): [True],
    ("turns", "turns"): [["a"]],
}
"""Those of them that are no fault where they stand."""

EXAMPLES = Conversation | PromptCompletion | Text | Preference | Feedback | Skipped
WORDS = st.sampled_from(
    ["user", "gpt", "function_call", "system", "text", "a", "model_b", "1", "true", "\n\nHuman: a\n\nAssistant: b", ""]
)
TURN_KEYS = st.sampled_from(
    ["role", "content", "from", "value", "tool_calls", "function_call", "name", "arguments", "function", "type", "text"]
)
SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS | st.text(st.characters(codec=None), max_size=5)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(TURN_KEYS, inner, max_size=4)
        | inner.map(json.dumps)
        | inner.map(repr)
    ),
    max_leaves=8,
)


def example_row(cls):
    """The row in the class's docstring: the line that begins with a brace."""
    return json.loads(next(line for line in cls.__doc__.splitlines() if line.strip().startswith("{")))


def rows(*values):
    return [Row(value, "rows.jsonl", number) for number, value in enumerate(values, 1)]


@pytest.mark.parametrize("name", FORMATS)
def test_the_example_row_of_each_format_parses_and_is_detected(name):
    row = example_row(FORMATS[name])
    assert FORMATS[name]().to_example(row)
    if not FORMATS[name].detected:
        with pytest.raises(DataError, match="the layout of this row is not known"):
            detect(rows(row))
        return
    detected = detect(rows(row))
    assert detected.format.type == name
    assert "key" in detected.reason


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("wrong", WRONG, ids=repr)
def test_a_wrong_value_under_any_needed_key_is_an_error_in_words(name, wrong):
    for key in FORMATS[name].keys:
        row = {**example_row(FORMATS[name]), key: wrong}
        if any(wrong is right or wrong == right for right in RIGHT.get((name, key), [])):
            assert FORMATS[name]().to_example(row)
            continue
        with pytest.raises(DataError, match=key):
            FORMATS[name]().to_example(row)


@pytest.mark.parametrize("name", FORMATS)
def test_a_missing_key_is_named(name):
    for key in FORMATS[name].keys:
        names = FORMATS[name].names.get(key, (key,))
        row = {other: value for other, value in example_row(FORMATS[name]).items() if other not in names}
        with pytest.raises(DataError, match=key):
            FORMATS[name]().to_example(row)


@cache
def keys_of(name):
    """Every key that a format reads, under every name."""
    cls = FORMATS[name]
    return sorted({alias for key in cls.keys + cls.optional for alias in cls.names.get(key, (key,))})


@pytest.mark.parametrize("name", FORMATS)
@given(data=st.data())
def test_a_format_makes_an_example_of_any_row_or_says_what_is_wrong(name, data):
    whole = data.draw(st.sampled_from([{}, example_row(FORMATS[name])]))
    row = whole | data.draw(st.dictionaries(st.sampled_from(keys_of(name)), VALUES, max_size=6))
    with suppress(DataError):
        assert isinstance(FORMATS[name]().to_example(row), EXAMPLES)


@given(st.lists(st.dictionaries(st.sampled_from(sorted({k for n in FORMATS for k in keys_of(n)})), VALUES), min_size=1))
def test_detection_finds_a_layout_or_says_what_is_wrong(values):
    rows = [Row(value, "rows.jsonl", number) for number, value in enumerate(values, 1)]
    for tolerant in (False, True):
        with suppress(DataError):
            detected = detect(rows, tolerant=tolerant)
            assert any(detected.format.matches(detected.tidied(value)) for value in values)


def parse(row):
    return detect(rows(row)).read(row)


def chat(user, assistant, system=None):
    turns = (Message("user", user), Message("assistant", assistant))
    return Conversation(((Message("system", system),) if system else ()) + turns)


def test_alpaca_puts_a_blank_line_before_the_input():
    row = {"instruction": "Add.", "input": "1 2", "output": "3", "system": "Be exact."}
    assert parse(row) == chat("Add.\n\n1 2", "3", "Be exact.")


@pytest.mark.parametrize("empty", [{"input": ""}, {"input": None}, {}, {"history": None}, {"history": []}])
def test_alpaca_without_an_input_is_the_instruction(empty):
    assert parse({"instruction": "Add.", "output": ""} | empty) == chat("Add.", "")


@pytest.mark.parametrize("answer", ["output", "response", "completion", "target", "answer"])
@pytest.mark.parametrize("question", ["instruction", "input"])
def test_relatives_of_alpaca_are_read_like_it(question, answer):
    row = {question: "Add 1 and 2.", answer: "3"}
    detected = detect(rows(row))
    assert detected.format.type == "alpaca"
    assert detected.reason == f"keys '{question}' and '{answer}'"
    assert detected.read(row) == chat("Add 1 and 2.", "3")


@pytest.mark.parametrize("history", [[["Hi", "Hello."]], '[["Hi", "Hello."]]', "[('Hi', 'Hello.')]"])
def test_history_stands_between_the_system_text_and_the_instruction(history):
    row = {"instruction": "Bye", "output": "Bye.", "system": "Be short.", "history": history}
    roles = [(turn.role, turn.content) for turn in parse(row).messages]
    assert roles == [
        ("system", "Be short."),
        ("user", "Hi"),
        ("assistant", "Hello."),
        ("user", "Bye"),
        ("assistant", "Bye."),
    ]


@pytest.mark.parametrize("context", ["Emma is a novel.", "", None])
def test_dolly_puts_the_context_after_the_instruction(context):
    row = {"instruction": "Who wrote it?", "context": context, "response": "Jane Austen.", "category": "open_qa"}
    detected = detect(rows(row))
    assert detected.format.type == "dolly"
    assert detected.reason.endswith("not used: key 'category'")
    assert detected.read(row) == chat(f"Who wrote it?\n\n{context}" if context else "Who wrote it?", "Jane Austen.")


@pytest.mark.parametrize("question", ["question", "query", "problem"])
@pytest.mark.parametrize("answer", ["answer", "response", "solution", "ground_truth"])
def test_questions_with_answers_under_many_names(question, answer):
    row = {question: "6 * 12?", answer: "72", "system_prompt": "Count."}
    assert detect(rows(row)).format.type == "question_answer"
    assert parse(row) == chat("6 * 12?", "72", "Count.")


def test_a_worked_solution_is_taken_before_a_bare_answer():
    row = {"problem": "6 * 12?", "answer": "72", "solution": "It is 72."}
    assert parse(row) == chat("6 * 12?", "It is 72.")
    assert detect(rows(row)).reason.endswith("not used: key 'answer'")


@pytest.mark.parametrize(("number", "text"), [(72, "72"), (3.5, "3.5"), (0, "0"), (-1, "-1")])
def test_a_number_as_an_answer_is_its_text(number, text):
    assert parse({"question": "6 * 12?", "answer": number}) == chat("6 * 12?", text)


@pytest.mark.parametrize("answers", [{"text": ["Paris", "In Paris"], "answer_start": [4, 1]}, "{'text': ['Paris']}"])
def test_squad_is_read_with_its_context_first(answers):
    row = {"id": "1", "question": "Where?", "context": "In Paris.", "answers": answers}
    assert parse(row) == chat("In Paris.\n\nWhere?", "Paris")


@pytest.mark.parametrize(
    "answer",
    [
        {"answer": ["Paris", "In Paris"]},
        {"answers": ["Paris"]},
        {"answer": {"aliases": ["In Paris"], "value": "Paris"}},
    ],
)
def test_of_several_ways_to_write_an_answer_the_first_is_taken(answer):
    assert parse({"question": "Where?", **answer}) == chat("Where?", "Paris")


@pytest.mark.parametrize("none", [{"text": []}, []])
def test_a_question_without_an_answer_is_left_out(none):
    assert parse({"question": "Where?", "answers": none}) == Skipped("a question without an answer")


@pytest.mark.parametrize("options", ["choices", "options", "choice", "endings"])
def test_multiple_choice_is_no_question_with_an_answer(options):
    with pytest.raises(DataError, match="layout of this row is not known"):
        detect(rows({"question": "Where?", options: 4, "answer": 1}))


@pytest.mark.parametrize("pair", [("user", "assistant"), ("prompt", "response"), ("human", "output")])
def test_two_columns_are_a_chat(pair):
    assert parse({pair[0]: " Hi", pair[1]: "Hello. "}) == chat(" Hi", "Hello. ")


def test_raw_rows_are_taken_as_they_stand():
    assert parse({"prompt": " a ", "completion": " b"}) == PromptCompletion(" a ", " b")
    assert parse({"text": " a "}) == Text(" a ")


@pytest.mark.parametrize(
    ("row", "cause"),
    [
        ({"instruction": " ", "output": "x"}, "key 'instruction' is empty"),
        ({"instruction": " ", "input": "\n", "output": "x"}, "keys 'instruction' and 'input' are all empty"),
        ({"question": "", "context": "", "answer": "x"}, "keys 'context' and 'question' are all empty"),
        ({"question": "x", "answer": True}, "'answer' is the truth value True; it must be text"),
        ({"question": "x", "answer": [["y"]]}, "'answer' is a list of 1; it must be text"),
        ({"question": "x", "answer": {"y": 1}}, "'answer' is an object with key 'y'; it must be text"),
        (
            {"question": "x", "answer": "y", "context": ["z"]},
            "'context' is a list .* 'columns: {unused: context}'",
        ),
        ({"text": "x", "code": "y"}, "if 'text' alone is to be trained on, say so with 'format: {type: text}'"),
        ({"question": "x", "answer": float("inf")}, "'answer' is the number inf"),
        ({"question": "x", "answers": {"text": [None]}}, "'answers' is null"),
        ({"instruction": "x", "output": "y", "history": "none"}, "'history' is the text 'none'; it must be a list of"),
        ({"instruction": "x", "output": "y", "history": [["a"]]}, r"history\[0\] is a list of 1; it must be a pair"),
        ({"instruction": "x", "output": "y", "history": [["a", 3]]}, r"history\[0\]\[1\] is the number 3"),
        ({"instruction": "x", "output": "caf\udce9"}, "'output' holds the byte 0xe9, which is not UTF-8; .*latin-1"),
        ({"instruction": "x", "output": "\ud83d"}, "'output' holds half a character"),
        ({"turns": ["Hi", None]}, r"turns\[1\] is null; it must be text"),
        ({"text": " \n"}, "'text' is empty"),
    ],
)
def test_what_does_not_fit_is_said_in_words(row, cause):
    with pytest.raises(DataError, match=cause):
        parse(row)
