"""Task templates: the shipped sets, templates of the user's own, draws that depend on the row alone, and faults."""

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ftune.core.errors import DataError
from ftune.data.encode import Encoder, encoded_batches, understood
from ftune.data.formats.task import TaskFormat
from ftune.data.row import Row
from ftune.data.tasks.task_set import LABEL, read_task_set, shipped
from ftune.data.tasks.template import OPTIONS, TaskTemplate, fill, placeholders
from ftune.data.tokenize import RowTokenizer

ROWS = {
    "classification": {"text": "A joy.", "label": "good"},
    "nli": {"premise": "A man sleeps.", "hypothesis": "He is awake.", "label": "contradiction", "idx": 3},
    "question_answering": {"context": "Emma is by Austen.", "question": "Who wrote Emma?", "answer": "Austen."},
    "summarisation": {"fname": "d1", "dialogue": "#Person1#: Hi.", "summary": "A greeting.", "topic": "hello"},
    "word_sense": {"word": "go", "sentence1": "Go on.", "sentence2": "It will not go.", "label": False},
    "yes_no": {"question": "is it red", "passage": "It is blue.", "label": False, "idx": 1},
}
PLAIN = {"prompt": "Q: {question}", "answer": "{label}"}
QUESTIONS = [{"question": f"is {number} even", "label": number % 2 == 0} for number in range(30)]


def layout(**fields):
    return TaskFormat.model_validate(fields)


def texts(conversation):
    return [message.content for message in conversation.messages]


# -- the shipped sets --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ROWS)
def test_a_shipped_set_has_ten_templates_at_most_three_of_them_turned_around(name):
    templates = shipped()[name].templates
    assert len({(template.prompt, template.answer) for template in templates}) == 10
    assert 1 <= sum(template.turned_around for template in templates) <= 3


def test_every_shipped_set_is_tested_and_documented():
    from ftune.core.section import field_docs

    assert shipped().keys() == ROWS.keys()
    assert f"({', '.join(shipped())})" in field_docs(TaskFormat)["templates"]


@pytest.mark.parametrize("name", ROWS)
def test_the_placeholders_of_a_shipped_set_are_its_columns(name):
    task_set = shipped()[name]
    assert set(task_set.names) == task_set.columns.keys()
    for template in task_set.templates:
        asked, answer = (set(placeholders(text)) - {OPTIONS} for text in (template.prompt, template.answer))
        assert answer
        assert not asked & answer, "an answer that stands in the prompt"
        assert bool(set(task_set.answered) & answer) != template.turned_around


@pytest.mark.parametrize("name", ROWS)
def test_each_template_of_a_shipped_set_can_be_asked(name):
    rows = [ROWS[name] | {"nonce": str(number)} for number in range(200)]
    labels = {"labels": {"good": "good", "bad": "bad"}} if name == "classification" else {}
    bound = layout(templates=name, **labels).bound(rows, seed=0)
    asked = Counter(texts(bound.to_example(row))[0] for row in rows)
    assert len(asked) == 10
    assert max(asked.values()) < 45  # 20 expected, and 40 is more than four standard deviations away


@pytest.mark.parametrize("name", sorted(ROWS.keys() - {"classification", "question_answering"}))
def test_rows_of_a_task_are_recognised_and_asked_in_one_way(name):
    reason = TaskFormat.matches(ROWS[name])
    assert f"of the task '{name}' (asked in one way" in reason
    assert f"templates: {name}" in reason
    assert TaskFormat.used(ROWS[name]) == {shipped()[name].column(key, ROWS[name]) for key in shipped()[name].columns}
    bound = layout().bound([ROWS[name]], seed=0)
    first = shipped()[name].templates[0].prompt
    made = {texts(bound.to_example(ROWS[name] | {"nonce": number}))[0] for number in range(20)}
    assert len(made) == 1
    assert made.pop().startswith(first[: first.index("{")])


@pytest.mark.parametrize(
    "row",
    [
        {"text": "x", "label": 1},
        {"question": "x", "answer": "y"},
        {"question": "x", "context": "z", "answer": "y"},
        {"question": "x", "passage": "y", "label": "maybe so"},
        {"dialogue": "x"},
        {"premise": "x"},
    ],
)
def test_other_rows_are_not_taken(row):
    assert TaskFormat.matches(row) is None
    with pytest.raises(DataError, match=r"of no task that is known; name one with 'format.templates': classification"):
        layout().bound([row], seed=0)


def test_labels_with_two_or_three_classes_get_their_own_words():
    two = [ROWS["nli"] | {"label": label} for label in ("entailment", "not_entailment")]
    three = [ROWS["nli"] | {"label": label} for label in ("entailment", "contradiction")]
    assert layout().bound(two, seed=0).choices(two[0]) == ("yes", "no")
    assert layout().bound(three, seed=0).choices(three[0]) == ("yes", "maybe", "no")
    assert texts(layout().bound(three, seed=0).to_example(three[1]))[1] == "no"


def test_numbers_as_labels_must_be_named():
    row = ROWS["nli"] | {"label": 1}
    with pytest.raises(DataError, match=r"'label' is '1', which is none of the labels that are named.*'format.labels'"):
        layout().bound([row], seed=0).to_example(row)
    named = layout(labels=["yes", "maybe", "no"]).bound([row], seed=0)
    assert texts(named.to_example(row))[1] == "maybe"
    assert named.choices(row) == ("yes", "maybe", "no")


# -- draws -------------------------------------------------------------------------------------------------------------


@given(st.randoms(), st.integers(0, 3))
def test_what_a_row_gets_does_not_depend_on_its_place(random, seed):
    bound = layout(templates="summarisation", shots=[0, 2]).bound(DIALOGUES[:10], seed)
    alone = {row["dialogue"]: bound.to_example(row) for row in DIALOGUES}
    for row in random.sample(DIALOGUES, len(DIALOGUES)):
        turned = dict(reversed(row.items()))
        assert bound.to_example(turned) == alone[row["dialogue"]]


DIALOGUES = [{"dialogue": f"Ann: {number}?\nBob: No.", "summary": f"It is not {number}."} for number in range(40)]


def test_another_seed_draws_other_templates():
    made = [
        [layout(templates="summarisation").bound(DIALOGUES, seed).to_example(row) for row in DIALOGUES]
        for seed in (0, 0, 1)
    ]
    assert made[0] == made[1] != made[2]


def test_processes_do_not_change_the_result(tiny_model):
    from transformers import AutoTokenizer

    from ftune.data.template import choose_template

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    rows = [
        Row({"dialogue": f"Ann: {number}?", "summary": f"{number}!"}, "rows.jsonl", number) for number in range(2500)
    ]

    def ids(num_proc):
        made, again = understood(rows, layout(templates="summarisation", shots=[0, 1]), tolerant=False, seed=3)
        encoder = Encoder(made, RowTokenizer(tokenizer, choose_template(tokenizer)))
        batches = encoded_batches(encoder, again, num_proc)
        return [outcome.main.input_ids for _, outcomes in batches for outcome in outcomes]

    assert ids(1) == ids(2)


@pytest.mark.parametrize("turned_around", [True, False])
def test_templates_that_are_turned_around_take_part_or_not(turned_around):
    bound = layout(templates="summarisation", turned_around=turned_around).bound(DIALOGUES, seed=0)
    answers = {row["summary"]: texts(bound.to_example(row))[1] for row in DIALOGUES}
    assert all(wanted == found for wanted, found in answers.items()) != turned_around


# -- exemplars ---------------------------------------------------------------------------------------------------------


@given(st.integers(1, 9), st.lists(st.integers(0, 9), min_size=20, max_size=40), st.integers(0, 5))
def test_exemplars_are_other_rows_with_blank_lines_between(shots, numbers, seed):
    rows = [{"question": f"<{number}>", "label": f"={number}="} for number in [*range(10), *numbers]]
    bound = layout(templates=[PLAIN], shots=shots).bound(rows, seed)
    for row in rows:
        asked, answer = texts(bound.to_example(row))
        *blocks, last = asked.split("\n\n")
        assert last == f"Q: {row['question']}"
        assert answer == row["label"]
        assert len(set(blocks)) == shots
        assert row["question"] not in "".join(blocks)
        assert answer not in "".join(blocks)
        assert all(block == f"Q: <{block[4]}>\n={block[4]}=" for block in blocks)


def test_a_list_of_shots_mixes_zero_and_few():
    bound = layout(templates=[PLAIN], shots=[0, 3], labels={"true": "yes", "false": "no"}).bound(QUESTIONS, seed=0)
    counts = Counter(texts(bound.to_example(row))[0].count("Q: ") for row in QUESTIONS)
    assert counts.keys() == {1, 4}


def test_too_few_exemplars_are_told_before_any_row_is_read():
    with pytest.raises(DataError, match="asks for 3 exemplars beside the row itself, but the first 5 rows hold 3"):
        layout(templates=[PLAIN], shots=3).bound([*QUESTIONS[:3], *QUESTIONS[:2]], seed=0)
    unanswered = [{"question": row["question"]} for row in QUESTIONS]
    with pytest.raises(DataError, match="hold 0 different rows with answers"):
        layout(templates=[PLAIN], shots=1).bound(unanswered, seed=0)


# -- rows without answers ----------------------------------------------------------------------------------------------


def test_rows_without_an_answer_are_prompts():
    row = {key: value for key, value in ROWS["word_sense"].items() if key != "label"}
    bound = layout(templates="word_sense").bound([row], seed=0)
    for number in range(40):
        example = bound.to_example(row | {"nonce": number})
        assert [message.role for message in example.messages] == ["user"]
        assert bound.choices(row | {"nonce": number}) == ("yes", "no")


def test_an_answer_may_be_empty_but_what_is_asked_may_not():
    bound = layout(templates="summarisation", turned_around=False).bound(DIALOGUES, seed=0)
    assert texts(bound.to_example({"dialogue": "x", "summary": ""}))[1] == ""
    with pytest.raises(DataError, match=r"'dialogue' is empty; the templates need text for '{document}'"):
        bound.to_example({"dialogue": " ", "summary": "x"})
    with pytest.raises(DataError, match="'summary' is null; it must be text"):
        bound.to_example({"dialogue": "x", "summary": None})


# -- label words -------------------------------------------------------------------------------------------------------


def test_choices_are_what_the_answer_is_one_of():
    own = [PLAIN | {"answer": "I say {label}."}]
    bound = layout(templates=own, labels={"true": "yes", "false": "no"}).bound(QUESTIONS, seed=0)
    assert bound.choices(QUESTIONS[0]) == ("I say yes.", "I say no.")
    for row in QUESTIONS:
        assert texts(bound.to_example(row))[1] in bound.choices(row)
    assert layout().bound([ROWS["summarisation"]], seed=0).choices(ROWS["summarisation"]) == ()


def test_no_choices_where_the_row_is_turned_around():
    bound = layout(templates="yes_no").bound([ROWS["yes_no"]], seed=0)
    for number in range(60):
        row = ROWS["yes_no"] | {"nonce": number}
        assert bound.choices(row) == (("yes", "no") if texts(bound.to_example(row))[1] == "no" else ())


def test_options_are_listed():
    listing = [{"prompt": "{question}\n{options}", "answer": "{label}"}]
    bound = layout(templates=listing).bound(QUESTIONS, seed=0)
    assert texts(bound.to_example(QUESTIONS[3]))[0] == "is 3 even\n- false\n- true"
    with pytest.raises(DataError, match=r"list '{options}', but the first 1 rows have fewer than two different labels"):
        layout(templates=listing).bound(QUESTIONS[:1], seed=0)


# -- templates ---------------------------------------------------------------------------------------------------------


@given(st.dictionaries(st.text("ab c.[]!:_", min_size=1), st.text(), min_size=1), st.text("xy{}\n"))
def test_values_are_put_in_as_they_are(values, between):
    """Braces in values, and dots or brackets in names, mean nothing."""
    escaped = between.replace("{", "{{").replace("}", "}}")
    text = escaped.join(f"{{{name}}}" for name in values)
    assert placeholders(text) == tuple(values)
    assert fill(text, values) == between.join(values.values())


@pytest.mark.parametrize("text", ["{", "}", "{}", "a {b", "a} {b}", "{a{b}}", "{a}}"])
def test_single_braces_are_refused(text):
    with pytest.raises(ValueError, match=r"a single '[{}]' in"):
        placeholders(text)


@pytest.mark.parametrize(
    ("template", "cause"),
    [
        ({"prompt": "Say it.", "answer": "{label}"}, "'prompt' has no placeholder"),
        ({"prompt": "{options}", "answer": "{label}"}, "'prompt' has no placeholder"),
        ({"prompt": "{text}", "answer": "yes"}, "'answer' has no placeholder"),
        ({"prompt": "{text}", "answer": "{label} of {options}"}, "'{options}' belongs into 'prompt'"),
        ({"prompt": "{text", "answer": "{label}"}, "a single '{'"),
        ({"prompt": "{text}", "answer": "{label}", "turned_arround": True}, "turned_arround"),
    ],
)
def test_templates_that_cannot_work_are_refused(template, cause):
    with pytest.raises(ValidationError, match=cause):
        TaskTemplate.model_validate(template)


def test_a_misspelt_placeholder_is_found_in_the_first_rows():
    wrong = [{"prompt": "{questoin}", "answer": "{label}"}]
    with pytest.raises(DataError, match=r"no column 'questoin' .*did you mean 'question'"):
        layout(templates=wrong).bound(QUESTIONS, seed=0)
    with pytest.raises(DataError, match=r"no column 'lable' .*did you mean 'label'"):
        layout(templates=[PLAIN | {"answer": "{lable}"}]).bound(QUESTIONS, seed=0)
    with pytest.raises(DataError, match=r"no column 'premise' for the placeholder '{premise}'; known: label, question"):
        layout(templates="nli").bound(QUESTIONS, seed=0)


def test_a_column_missing_in_one_row_is_that_rows_fault():
    bound = layout(templates=[PLAIN]).bound(QUESTIONS, seed=0)
    with pytest.raises(DataError, match=r"no column 'question'"):
        bound.to_example({"questions": "x", "label": True})


# -- files and recipes -------------------------------------------------------------------------------------------------

FILE = """\
columns: {question: [question, q], label: [label]}
labels: {true: yes, false: no}
templates:
  - {prompt: "{question}?", answer: "{label}"}
"""


def test_a_file_of_templates_is_found_beside_the_recipe_and_becomes_part_of_it(tmp_path):
    (tmp_path / "even.yaml").write_text(FILE)
    found = TaskFormat.model_validate({"templates": "even.yaml"}, context={"folders": [tmp_path]})
    (tmp_path / "even.yaml").unlink()
    kept = TaskFormat.model_validate(json.loads(found.model_dump_json()))
    assert texts(kept.bound(QUESTIONS, seed=0).to_example({"q": "is 4 even", "label": True})) == ["is 4 even?", "yes"]


def test_a_file_may_be_a_list_of_templates(tmp_path):
    (tmp_path / "even.yaml").write_text('- {prompt: "{question}?", answer: "{label}"}\n')
    assert len(read_task_set(tmp_path / "even.yaml").templates) == 1


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("templates: [", r"even.yaml:2:1: "),
        ("templates: []", r"even.yaml:1:1: templates: "),
        (FILE.replace("{label}", "{lable}"), r"even.yaml:1:1: .*'lable' is not under 'columns'; did you mean 'label'"),
        (FILE.replace("question}?", "question?"), r"even.yaml:4:5: templates\[0\]: a single '{'"),
        ('- {prompt: "{a}", answer: "{b}"}\n- {prompt: 3, answer: "{b}"}\n', r"even.yaml:2:4: \[1\].prompt: "),
        ('- {prompt: "{a}", answer: "{b}", turned_around: true}\n', "the first template is turned around"),
    ],
)
def test_a_file_that_is_wrong_says_where(tmp_path, text, cause):
    (tmp_path / "even.yaml").write_text(text)
    with pytest.raises(DataError, match=cause):
        read_task_set(tmp_path / "even.yaml")
    with pytest.raises(ValidationError, match=r"even.yaml"):
        TaskFormat.model_validate({"templates": "even.yaml"}, context={"folders": [tmp_path]})


@pytest.mark.parametrize(
    ("fields", "cause"),
    [
        (
            {"templates": "sumarisation"},
            "neither a file nor one of the task sets of ftune; did you mean 'summarisation'",
        ),
        ({"templates": []}, "at least 1"),
        ({"templates": [PLAIN | {"turned_around": True}]}, "the first template is turned around"),
        ({"templates": "summarisation", "labels": ["a", "b"]}, "'labels' does nothing here"),
        ({"shots": -1}, "greater than or equal to 0"),
        ({"shots": []}, "at least 1"),
        ({"labels": {"0": True}}, "valid string"),
    ],
)
def test_fields_that_cannot_work_are_refused(fields, cause):
    with pytest.raises(ValidationError, match=cause):
        layout(**fields)


def test_labels_stand_where_a_label_is():
    assert all(LABEL in known.columns or not known.labels for known in shipped().values())


def test_the_format_names_the_columns_of_its_example():
    assert {name: tuple(names) for name, names in shipped()["summarisation"].columns.items()} == TaskFormat.names
