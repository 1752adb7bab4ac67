"""Rows to tokens as a whole: counts that add up, policies, checks and refusals."""

from dataclasses import replace

import numpy as np
import pytest

from ftune.core.errors import DataError
from ftune.data.checks import Checker
from ftune.data.formats.alpaca import AlpacaFormat
from ftune.data.intake import Rules
from ftune.data.mix import chained
from ftune.data.prepare import prepare
from ftune.data.row import BadRow, Row

GOOD = {"instruction": "Who are you?", "output": "A small model."}
LONG = {"instruction": "Who are you?", "output": "A small model. " * 40}
BAD = {"instruction": "Who are you?", "output": None}


def rows(*values):
    return [
        value if isinstance(value, BadRow) else Row(value, "rows.jsonl", number)
        for number, value in enumerate(values, 1)
    ]


@pytest.fixture
def made(smollm2):
    def make(*values, format=None, num_proc=1, progress=None, folder=None, **rules):
        rules = Rules(**rules)
        given = rows(*values)
        options = {"num_proc": num_proc, "progress": progress, "folder": folder}
        return chained([prepare(given, format, smollm2.tokenizer, smollm2.template, rules, **options)])

    return make


def test_rows_become_tokens_with_their_origins(made, smollm2):
    seen = []
    prepared = made(GOOD, {**GOOD, "output": ""}, progress=seen.append)
    assert list(prepared.origins) == ["rows.jsonl:1", "rows.jsonl:2"]
    assert prepared.origins[-2:] == ["rows.jsonl:1", "rows.jsonl:2"]
    assert (prepared.format, prepared.reason) == ("alpaca", "keys 'instruction' and 'output' in the first 2 rows")
    assert seen == [2]
    counts = prepared.counts
    assert (counts.read, counts.kept, counts.dropped, counts.empty_completions) == (2, 2, {}, 1)
    assert counts.tokens == sum(prepared.lengths)
    assert counts.trained_tokens == sum(label != -100 for row in (0, 1) for label in prepared.labels(row))
    assert (counts.trained_min, counts.longest_row) == (1, "rows.jsonl:1")
    assert prepared.failed() == []
    assert len(prepared.checks) == 6


def test_a_named_format_is_not_detected(made):
    with pytest.raises(DataError, match=r"rows.jsonl:1: '\w+' is missing"):
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
        made(GOOD, LONG, max_length=80, on_long_row="error")
    dropped = made(GOOD, LONG, max_length=80, on_long_row="drop")
    assert dropped.counts.dropped == {"longer than max_length": 1}
    cut = made(GOOD, LONG, max_length=80, on_long_row="truncate")
    assert cut.lengths[1] == 80
    counts = cut.counts
    assert (counts.truncated, counts.truncated_completions, counts.truncated_stop_tokens) == (1, 1, 1)
    assert cut.failed() == []
    assert counts.longest > 80


def test_where_all_rows_are_too_long_the_shortest_is_named(made):
    shortest = made(GOOD).lengths[0]
    said = (
        r"all 2 rows were dropped \(2 longer than max_length\); .*: max_length is 8, and the shortest of what is "
        rf"longer has {shortest} tokens \(.*rows\.jsonl:2\); raise 'data\.max_length', or set 'data\.on_long_row: trunc"
    )
    with pytest.raises(DataError, match=said):
        made(LONG, GOOD, max_length=8, on_long_row="drop")


def test_a_cut_that_leaves_nothing_to_train_is_a_bad_row(made):
    options = {"max_length": 20, "on_long_row": "truncate"}
    with pytest.raises(DataError, match=r"no answer within max_length \(20\); raise 'data\.max_length', or set"):
        made(GOOD, **options)
    with pytest.raises(DataError, match=r"the only row was dropped \(1 no trained token within max_length\)"):
        made(GOOD, on_bad_row="drop", **options)


def test_no_rows_at_all_is_refused(made):
    with pytest.raises(DataError, match="there are no rows"):
        made()


def test_the_fingerprint_is_that_of_the_tokens(made):
    first, second = made(GOOD, LONG), made(LONG, GOOD)
    assert first.fingerprint == made(GOOD, LONG).fingerprint
    assert first.fingerprint != second.fingerprint
    assert first.fingerprint != made(GOOD, LONG, mask="all").fingerprint
    assert first.fingerprint != first.at(np.array([1, 0])).fingerprint


def test_tables_on_disk_hold_what_tables_in_memory_hold(made, tmp_path):
    memory, disk = made(GOOD, LONG, {**GOOD, "output": ""}), made(GOOD, LONG, {**GOOD, "output": ""}, folder=tmp_path)
    assert disk.fingerprint == memory.fingerprint
    for row in range(3):
        assert (disk.ids(row), disk.labels(row)) == (memory.ids(row), memory.labels(row))
        assert len(disk.ids(row)) == disk.lengths[row]
        assert sum(label != -100 for label in disk.labels(row)) == disk.trained_counts[row]
    assert disk.at(np.array([2, 0])).ids(1) == memory.ids(0)
    assert list(disk.at(np.array([2, 0])).origins) == ["rows.jsonl:3", "rows.jsonl:1"]


def test_rows_that_could_not_be_read_are_bad_rows(made):
    bad = BadRow("rows.jsonl", 2, 7, "truncated JSON")
    with pytest.raises(DataError, match=r"^rows.jsonl:2:7: truncated JSON$"):
        made(GOOD, bad)
    counts = made(GOOD, bad, on_bad_row="drop").counts
    assert (counts.read, counts.kept, counts.dropped) == (2, 1, {"unreadable": 1})
    assert counts.faults == ["rows.jsonl:2:7: truncated JSON"]
    with pytest.raises(DataError, match=r"no rows that can be read\nrows.jsonl:2:7: truncated JSON"):
        made(bad)


@pytest.mark.parametrize("limit", [8, 63, 64, 65])
def test_long_text_becomes_sequences_that_train_every_token_once(made, limit):
    text = "The capital of France is Paris.\n" * 40
    whole, split = made({"text": text}), made({"text": text}, max_length=limit)
    assert [token for row in range(len(split)) for token in split.ids(row)[1:]] == whole.ids(0)[1:]
    assert all(split.ids(row)[0] == split.ids(row - 1)[-1] for row in range(1, len(split)))
    assert all(split.labels(row) == [-100, *split.ids(row)[1:]] for row in range(len(split)))
    assert split.lengths.max() == split.lengths[:-1].min() == limit
    assert split.counts.pieces == len(split) - 1
    assert split.failed() == []
    assert made({"text": text}, {"text": "short"}, max_length=64, on_long_row="drop").counts.kept == 1


PAIR = {"prompt": "Who are you? ", "chosen": "A small model.", "rejected": "Nobody."}


def test_preferences_are_refused_taken_by_their_better_side_or_kept_whole(made):
    with pytest.raises(DataError, match="on_preference: chosen"):
        made(PAIR)
    chosen, both = made(PAIR, answers="chosen"), made(PAIR, answers="both")
    assert not chosen.is_preference
    assert both.is_preference
    assert both.ids(0) == chosen.ids(0)
    assert both.rejected().ids(0) != both.ids(0)
    assert len(both.rejected()) == 1


def test_feedback_keeps_its_verdict_or_only_the_good_answers(made):
    judged = [{"prompt": "Who? ", "completion": "I.", "label": label} for label in (True, False, True)]
    with pytest.raises(DataError, match="on_preference: chosen"):
        made(*judged)
    assert made(*judged, answers="chosen").counts.dropped == {"its answer was judged bad": 1}
    assert made(*judged, answers="both").parts[0].table.scores.tolist() == [1, 0, 1]


def test_prompts_are_kept_where_they_are_asked_for(made):
    question = {"messages": [{"role": "user", "content": "Hi"}]}
    prompts = made(question, prompts=True)
    assert prompts.counts.trained_tokens == 0
    assert [check.name for check in prompts.failed()] == ["every row has trained tokens"]


def test_a_group_column_that_is_not_there_is_named(made):
    with pytest.raises(DataError, match=r"rows.jsonl:1: there is no column 'outptu'.* did you mean 'output'"):
        made(GOOD, group="outptu")


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
    checker = Checker(smollm2.tokenizer, len(smollm2.tokenizer))
    checker.take(row, "rows.jsonl:7")
    (failed,) = [check for check in checker.checks() if check.name.startswith(name)]
    assert not failed.ok
    assert "rows.jsonl:7" in failed.detail
