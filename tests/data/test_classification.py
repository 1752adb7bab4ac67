"""Text and label as an instruction: which columns, which words, and what is said of labels that do not fit."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftune.core.errors import DataError
from ftune.data.formats.classification import ClassificationFormat
from ftune.data.formats.detect import detect
from ftune.data.row import Row
from ftune.data.tasks.task_set import shipped

REVIEWS = [{"text": "Dull &amp; long.", "label": 0}, {"text": "A joy.", "label": 1}]


def asked_and_answered(layout, row):
    user, assistant = layout.to_example(row).messages
    assert (user.role, assistant.role) == ("user", "assistant")
    return user.content, assistant.content


def bound(rows, **fields):
    return ClassificationFormat.model_validate(fields).bound(rows, seed=0)


@pytest.mark.parametrize("labels", [["bad", "good"], {"0": "bad", "1": "good"}])
@pytest.mark.parametrize("raw", [(0, 1), ("0", "1"), (0.0, 1.0), (" 0", "1\n")])
def test_labels_are_matched_by_their_text(labels, raw):
    rows = [{"text": "x", "label": label} for label in raw]
    layout = bound(rows, labels=labels)
    assert [asked_and_answered(layout, row)[1] for row in rows] == ["bad", "good"]


@pytest.mark.parametrize("key", ["true", "True", "TRUE"])
@pytest.mark.parametrize("raw", [True, "true", "True", "TRUE"])
def test_truth_values_match_in_any_capitals(key, raw):
    row = {"text": "x", "label": raw}
    assert asked_and_answered(bound([row], labels={key: "toxic", "false": "fine"}), row)[1] == "toxic"


def test_the_options_stand_before_the_text_and_entities_are_left_alone():
    asked, answer = asked_and_answered(bound(REVIEWS, labels=["bad", "good"]), REVIEWS[0])
    assert "- bad\n- good\n\nText: Dull &amp; long." in asked
    assert answer == "bad"


def test_without_names_the_labels_of_the_first_rows_are_the_words_in_their_order():
    rows = [{"text": "x", "label": label} for label in (10, 2, 2, 1)]
    assert bound(rows).choices(rows[0]) == ("1", "2", "10")
    rows = [{"text": "x", "label": label} for label in ("sports", "arts")]
    assert bound(rows).choices(rows[0]) == bound(rows[::-1]).choices(rows[0]) == ("arts", "sports")
    assert bound([{"text": "x", "label": flag} for flag in (True, False)]).choices({}) == ("false", "true")


def test_one_label_is_no_choice_and_is_not_shown():
    layout = bound([{"text": "x", "label": "only"}])
    assert layout.choices({}) == ()
    assert "only" not in asked_and_answered(layout, {"text": "x", "label": "only"})[0].split()[:-3]
    assert "- only" not in asked_and_answered(layout, {"text": "x", "label": "only"})[0]


@pytest.mark.parametrize(
    ("row", "cause"),
    [
        ({"text": "x", "label": "positiv"}, "'label' is 'positiv', which is none .*did you mean 'positive'"),
        ({"text": "x", "label": None}, "'label' is null; a label is text, a whole number, true or false"),
        ({"text": "x", "label": 0.5}, "'label' is the number 0.5; a label is"),
        ({"text": "x", "label": ["a"]}, "'label' is a list of 1; a label is"),
        ({"text": "x", "label": " "}, "'label' is empty"),
        ({"text": "x"}, "'label' is missing"),
        ({"text": " ", "label": "positive"}, "'text' is empty"),
        ({"text": 7, "label": "positive"}, "'text' is the number 7; it must be text"),
    ],
)
def test_what_does_not_fit_is_said_in_words(row, cause):
    layout = bound([{"text": "x", "label": label} for label in ("positive", "negative")])
    with pytest.raises(DataError, match=cause):
        layout.to_example(row)


def test_a_label_beyond_the_first_rows_says_how_to_name_all():
    with pytest.raises(DataError, match=r"none of the first rows' labels.*'format.labels'"):
        bound(REVIEWS).to_example({"text": "x", "label": 2})


@pytest.mark.parametrize(
    ("row", "columns"),
    [
        ({"sentence": "x", "label": 1, "idx": 3}, {"sentence", "label"}),
        ({"count": "3", "neither": "0", "class": "2", "tweet": "x"}, {"tweet", "class"}),
        ({"text": "x", "label": 1, "label_text": "good"}, {"text", "label_text"}),
        ({"text": "x", "label": False}, {"text", "label"}),
    ],
)
def test_the_two_columns_are_found(row, columns):
    assert ClassificationFormat.matches(row)
    assert ClassificationFormat.used(row) == columns


@pytest.mark.parametrize(
    "row",
    [
        {"text": "x"},
        {"label": 1},
        {"text": "x", "label": 0.7},
        {"text": "x", "label": None},
        {"text": "x", "label": "a long explanation " * 5},
        {"text": ["x"], "label": 1},
        {"premise": "x", "hypothesis": "y", "label": 1},
    ],
)
def test_other_rows_are_not_taken(row):
    assert ClassificationFormat.matches(row) is None


def test_named_columns():
    layout = bound([], text="body", label="verdict", labels=["no", "yes"])
    row = {"text": "not this", "body": "this", "label": 0, "verdict": 1}
    asked, answer = asked_and_answered(layout, row)
    assert "Text: this" in asked
    assert answer == "yes"


@given(st.lists(st.sampled_from(["a", "b", "c", "d"]), min_size=1), st.randoms())
def test_the_prompt_does_not_depend_on_the_order_of_the_first_rows(labels, random):
    rows = [{"text": f"text {number}", "label": label} for number, label in enumerate(labels)]
    mixed = random.sample(rows, len(rows))
    assert [bound(rows).to_example(row) for row in rows] == [bound(mixed).to_example(row) for row in rows]


def test_the_task_set_knows_the_same_columns():
    assert {name: tuple(names) for name, names in shipped()["classification"].columns.items()} == (
        ClassificationFormat.names
    )


def test_a_label_beside_two_texts_is_not_the_class_of_one():
    with pytest.raises(DataError, match="not known"):
        detect([Row({"question": "Where?", "sentence": "In Paris.", "label": 0}, "rows.jsonl", 1)])


@pytest.mark.parametrize(("label", "said"), [(0, True), ("1", True), ("good", False), (True, False)])
def test_numbers_that_are_trained_as_they_stand_are_said(label, said):
    reason = detect([Row({"text": "a", "label": label}, "rows.jsonl", 1)]).reason
    assert ("name the classes in the recipe" in reason) == said


def test_a_label_that_is_kept_back_is_no_class():
    rows = [{"text": "a", "label": label} for label in (0, 1, -1)]
    layout = bound(rows)
    assert layout.choices(rows[0]) == ("0", "1")
    with pytest.raises(DataError, match="'label' is '-1', which data sets write where there is no label"):
        layout.to_example(rows[2])
    assert asked_and_answered(bound(rows, labels={"-1": "bad", "0": "fair", "1": "good"}), rows[2])[1] == "bad"
