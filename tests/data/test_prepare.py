"""Rows to tokens as a whole: counts that add up, policies, checks and refusals."""

from dataclasses import replace

import pytest

from ftune.core.errors import DataError
from ftune.data.checks import check_rows
from ftune.data.formats.alpaca import AlpacaFormat
from ftune.data.prepare import fingerprint, prepare, to_dataset
from ftune.data.row import Row

GOOD = {"instruction": "Who are you?", "output": "A small model."}
LONG = {"instruction": "Who are you?", "output": "A small model. " * 40}
BAD = {"instruction": "Who are you?", "output": None}


def rows(*values):
    return [Row(value, "rows.jsonl", number) for number, value in enumerate(values, 1)]


@pytest.fixture
def made(smollm2):
    def make(*values, **options):
        return prepare(rows(*values), options.pop("format", None), smollm2.tokenizer, smollm2.template, **options)

    return make


def test_rows_become_tokens_with_their_origins(made, smollm2):
    seen = []
    prepared = made(GOOD, {**GOOD, "output": ""}, progress=seen.append)
    assert prepared.origins == ["rows.jsonl:1", "rows.jsonl:2"]
    assert (prepared.format, prepared.reason) == ("alpaca", "keys 'instruction' and 'output' in the first 2 rows")
    assert seen == [2]
    counts = prepared.counts
    assert (counts.read, counts.kept, counts.dropped, counts.empty_completions) == (2, 2, {}, 1)
    assert counts.tokens == sum(prepared.lengths)
    assert counts.trained_tokens == sum(label != -100 for row in prepared.labels for label in row)
    assert (counts.trained_min, counts.longest_row) == (1, "rows.jsonl:1")
    assert prepared.failed() == []
    assert len(prepared.checks) == 6


def test_a_named_format_is_not_detected(made):
    with pytest.raises(DataError, match=r"rows.jsonl:1: 'instruction' is missing"):
        made({"text": "a"}, format=AlpacaFormat())


def test_bad_rows_are_listed_up_to_ten(made):
    with pytest.raises(DataError) as error:
        made(GOOD, BAD, GOOD, BAD)
    assert str(error.value).splitlines() == [f"rows.jsonl:{line}: 'output' is null; it must be text" for line in (2, 4)]
    with pytest.raises(DataError) as error:
        made(GOOD, *[BAD] * 30)
    assert len(str(error.value).splitlines()) == 11


def test_bad_rows_are_dropped_and_counted(made):
    prepared = made(GOOD, BAD, on_bad_row="drop")
    assert prepared.counts.dropped == {"the row does not fit its format or template": 1}
    assert prepared.counts.read == prepared.counts.kept + 1


def test_a_row_with_nothing_to_train_is_a_bad_row(made):
    question = {"messages": [{"role": "user", "content": "Hi"}]}
    answer = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]}
    with pytest.raises(
        DataError, match=r"rows.jsonl:2: nothing to train on: the row has no answer; .*on_bad_row: drop"
    ):
        made(answer, question)
    assert made(answer, question, on_bad_row="drop").counts.dropped == {"no trained token": 1}


def test_long_rows_follow_their_policy(made):
    with pytest.raises(DataError, match=r"rows.jsonl:2: \d+ tokens, but max_length is 80; .*on_long_row"):
        made(GOOD, LONG, max_length=80)
    dropped = made(GOOD, LONG, max_length=80, on_long_row="drop")
    assert dropped.counts.dropped == {"longer than max_length": 1}
    cut = made(GOOD, LONG, max_length=80, on_long_row="truncate")
    assert cut.lengths[1] == 80
    counts = cut.counts
    assert (counts.truncated, counts.truncated_completions, counts.truncated_stop_tokens) == (1, 1, 1)
    assert cut.failed() == []
    assert counts.longest > 80


def test_a_cut_that_leaves_nothing_to_train_is_a_bad_row(made):
    options = {"max_length": 20, "on_long_row": "truncate"}
    with pytest.raises(DataError, match="no answer within max_length"):
        made(GOOD, **options)
    with pytest.raises(DataError, match=r"all 1 rows were dropped \(1 no trained token within max_length\)"):
        made(GOOD, on_bad_row="drop", **options)


def test_no_rows_at_all_is_refused(made):
    with pytest.raises(DataError, match="there are no rows"):
        made()


def test_the_fingerprint_is_that_of_the_tokens(made):
    first, second = made(GOOD, LONG), made(LONG, GOOD)
    assert first.fingerprint == made(GOOD, LONG).fingerprint
    assert first.fingerprint != second.fingerprint
    assert first.fingerprint == fingerprint(first.input_ids, first.labels)
    assert first.fingerprint != made(GOOD, LONG, mask="all").fingerprint
    assert fingerprint([[1], [2]], [[1], [2]]) != fingerprint([[1, 2]], [[1, 2]])


def test_rows_become_a_dataset(made):
    prepared = made(GOOD, LONG)
    assert to_dataset(prepared)[:] == {"input_ids": prepared.input_ids, "labels": prepared.labels, "row": [0, 1]}
    assert to_dataset(prepared, [1])[:]["row"] == [1]


@pytest.mark.parametrize(
    ("broken", "name"),
    [
        (lambda row: replace(row, input_ids=[1, 1, *row.input_ids[2:]]), "no double BOS"),
        (lambda row: replace(row, labels=[*row.labels[:-2], -100, -100]), "the stop token of every answer"),
        (lambda row: replace(row, labels=[-100, 5, *row.labels[2:]]), "nothing but answers is trained"),
        (lambda row: replace(row, labels=[-100] * len(row.labels)), "every row has trained tokens"),
        (lambda row: replace(row, input_ids=[*row.input_ids[:-1], 5000]), "ids are below the vocabulary size"),
        (lambda row: replace(row, answers=[row.answers[0]._replace(text="No.")]), "trained tokens decode"),
    ],
)
def test_each_check_fails_on_what_it_is_there_for(smollm2, broken, name):
    row = broken(smollm2.rows().encode(AlpacaFormat().to_example(GOOD)))
    checks = check_rows([row], ["rows.jsonl:7"], smollm2.tokenizer, len(smollm2.tokenizer))
    (failed,) = [check for check in checks if check.name.startswith(name)]
    assert not failed.ok
    assert "rows.jsonl:7" in failed.detail
