"""Rankings as pairs, texts with classes, and the token that rows are padded with."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

from ftune.core.errors import DataError
from ftune.data.example import Preference
from ftune.data.formats.classification import ClassificationFormat
from ftune.data.formats.ranked import RankedFormat
from ftune.data.intake import Rules
from ftune.data.mix import chained
from ftune.data.padding import pad_with_unused, pad_within
from ftune.data.prepare import prepare
from ftune.data.prepared import Part, Prepared
from ftune.data.row import Row
from ftune.data.split import split
from ftune.data.template import choose_template
from ftune.trainers.judged import PairDataset, answers_of


def ranking(prompt: str, *ranks: int) -> dict[str, object]:
    return {
        "prompt": prompt,
        "answers": [{"answer": f"the {rank} cat {at}", "rank": rank} for at, rank in enumerate(ranks)],
    }


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_model)


def part(rows: list[dict[str, object]], tokenizer: Any, rules: Rules, format: Any = None) -> Part:
    made = [Row(values, "rows.jsonl", line) for line, values in enumerate(rows, 1)]
    return prepare(made, format, tokenizer, choose_template(tokenizer), rules)


def test_n_answers_become_all_pairs_of_which_one_is_better(tokenizer: Any) -> None:
    found = part([ranking("a", 3, 1, 2, 4), ranking("b", 1, 1, 2)], tokenizer, Rules(answers="pairs"))
    prepared = chained([found])
    assert prepared.numbers.tolist() == [0] * 6 + [1] * 2
    assert sorted(found.table.scores[:6].tolist()) == [1, 1, 1, 2, 2, 3]
    dataset = PairDataset(prepared)
    assert [len(prompt) for prompt in dataset.prompts] == [6, 2]
    four, three = dataset[0], dataset[1]
    answers = [tokenizer.decode(ids) for ids in answers_of(four)]
    order = [int(text.split("the ")[1].split(" ")[0]) for text in answers]
    assert sorted(order) == [1, 2, 3, 4]
    assert len(set(zip(four["better"], four["worse"], strict=True))) == 6
    assert all(order[better] < order[worse] for better, worse in zip(four["better"], four["worse"], strict=True))
    assert len(three["lengths"]) == 3
    assert found.counts.read == found.counts.kept - found.counts.pieces + sum(found.counts.dropped.values())


def test_a_ranking_is_the_best_against_the_worst_where_one_pair_is_wanted(tokenizer: Any) -> None:
    found = part([ranking("a", 3, 1, 2, 4)], tokenizer, Rules(answers="both"))
    assert len(found.table) == 1
    assert "the 1 cat" in tokenizer.decode(found.table.ids_of(0))
    assert "the 4 cat" in tokenizer.decode(found.rejected.ids_of(0))
    example = RankedFormat().to_example(ranking("a", 2, 1))
    assert isinstance(example, Preference)
    assert [score for _, score in example.ranking] == [-2, -1]


def test_a_pair_with_a_long_answer_is_dropped_alone(tokenizer: Any) -> None:
    row = ranking("a", 1, 2, 3)
    row["answers"][2]["answer"] = "cat " * 99  # type: ignore[index]
    found = part([row], tokenizer, Rules(answers="pairs", max_length=64))
    assert (found.counts.kept, found.counts.dropped) == (1, {"longer than max_length": 2})


def test_a_ranking_with_a_long_answer_is_one_fault(tokenizer: Any) -> None:
    rows = [ranking("a", 1, 2, 3), ranking("b", 1, 2, 3)]
    for row, words in zip(rows, (99, 98), strict=True):
        row["answers"][2]["answer"] = "cat " * words  # type: ignore[index]
        row["answers"][1]["answer"] = "cat " * (words - 9)  # type: ignore[index]
    with pytest.raises(DataError) as refused:
        part(rows, tokenizer, Rules(answers="pairs", max_length=64, on_long_row="error"))
    assert [line.split(" ")[0] for line in str(refused.value).splitlines()] == ["rows.jsonl:1:", "rows.jsonl:2:"]


def test_pairs_of_one_prompt_are_held_out_together(tokenizer: Any) -> None:
    every = chained([part([ranking(str(at), 1, 2, 3) for at in range(20)], tokenizer, Rules(answers="pairs"))])
    train, out = split(every.keys, 15, 0, groups=every.row_groups())
    assert len(out) == 15
    assert not set(every.numbers[train]) & set(every.numbers[out])


def test_a_row_that_comes_twice_is_two_prompts(tokenizer: Any) -> None:
    one = part([ranking("a", 1, 2, 3)], tokenizer, Rules(answers="pairs"))
    twice = Prepared([one], np.zeros(6, np.int32), np.array([0, 1, 2, 0, 1, 2]))
    assert [len(prompt) for prompt in PairDataset(twice).prompts] == [3, 3]


def test_a_text_and_its_class(tokenizer: Any) -> None:
    format = ClassificationFormat(labels={"0": "bad", "1": "bad", "2": "good"})
    rows: list[dict[str, object]] = [{"tweet": "the cat", "class": 1}, {"tweet": "a mat", "class": 2}]
    found = part(rows, tokenizer, Rules(answers="class", classes=("good", "bad")), format)
    assert found.table.scores.tolist() == [1, 0]
    assert tokenizer.decode(found.table.ids_of(0)) == "the cat<|im_end|>"
    assert not len(found.rejected)
    with pytest.raises(DataError, match=r"its class 'good' is none of the classifier's: bad, worse"):
        part(rows, tokenizer, Rules(answers="class", classes=("bad", "worse")), format)
    with pytest.raises(DataError, match="rows of 'ranked' have none"):
        part([ranking("a", 1, 2)], tokenizer, Rules(answers="class", classes=("a", "b")))


def test_padding_is_a_token_that_no_row_ends_with(tiny_model: Path, tokenizer: Any) -> None:
    table = part([ranking("a", 1, 2)], tokenizer, Rules(answers="pairs")).table
    own = AutoTokenizer.from_pretrained(tiny_model)
    assert pad_with_unused(own, [table], len(own)).ok
    assert own.pad_token == "<|endoftext|>"
    own.pad_token = own.eos_token
    assert "'<|endoftext|>'; 1 row" in pad_with_unused(own, [table], len(own)).detail
    assert own.pad_token_id not in table.ids
    own.pad_token = own.eos_token
    ends = part([{"text": f"a{mark}"} for mark in ("<|endoftext|>", "<|im_start|>")], tokenizer, Rules()).table
    ends.ids[ends.ends - 1] = [0, 1]
    with pytest.raises(DataError, match="every special token of this tokenizer ends rows"):
        pad_with_unused(own, [ends], len(own))


def test_a_token_that_the_model_does_not_know_is_no_padding(tiny_model: Path, tokenizer: Any) -> None:
    own = AutoTokenizer.from_pretrained(tiny_model)
    known, pad = len(own), own.pad_token
    pad_within(own, known)
    assert own.pad_token == pad
    own.add_special_tokens({"pad_token": "[PAD]"})
    table = part([ranking("a", 1, 2)], tokenizer, Rules(answers="pairs")).table
    pad_with_unused(own, [table], known)
    assert own.pad_token_id < known
    own.pad_token = "[PAD]"
    pad_within(own, known)
    assert own.pad_token == own.eos_token
