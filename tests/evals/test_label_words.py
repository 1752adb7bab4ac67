"""Label words: likelihoods against a slow reference, whatever the batch; scores against counts by hand."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ftune.data.formats.classification import ClassificationFormat
from ftune.evals.label_words import accuracy, confusion, f1_by_label, score_label_words
from tests.conftest import WORDS as VOCABULARY
from tests.conftest import Done, write_rows

PROMPTS = ["the cat", "a small red mat and nine birds", "on", "over roofs"]
WORDS = [["yes", "no"], ["the red roofs", "birds", "mat"], ["yes", "no"], ["nine", "no birds fly"]]


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_model)


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)


def encoded(tokenizer: Any) -> tuple[list[list[int]], list[list[list[int]]]]:
    return tokenizer(PROMPTS).input_ids, [tokenizer([" " + word for word in each]).input_ids for each in WORDS]


def one_token_at_a_time(model: Any, prompt: list[int], word: list[int]) -> float:
    total = 0.0
    for place, token in enumerate(word):
        logits = model(torch.tensor([prompt + word[:place]])).logits[0, -1].detach().double()
        total += float(logits[token] - torch.logsumexp(logits, 0))
    return total


@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
def test_likelihoods_are_those_of_one_token_at_a_time(model: Any, tokenizer: Any, batch_size: int) -> None:
    prompts, words = encoded(tokenizer)
    wanted = [
        [one_token_at_a_time(model, prompt, word) for word in each] for prompt, each in zip(prompts, words, strict=True)
    ]
    scores = score_label_words(model, prompts, words, batch_size=batch_size)
    for found, right in zip(scores.logprobs, wanted, strict=True):
        assert found == pytest.approx(right, abs=1e-4)
    assert scores.predictions == [row.index(max(row)) for row in wanted]


def test_normalised_scores_are_means_over_tokens(model: Any, tokenizer: Any) -> None:
    prompts, words = encoded(tokenizer)
    sums = score_label_words(model, prompts, words, batch_size=4).logprobs
    means = score_label_words(model, prompts, words, batch_size=4, normalise="tokens").logprobs
    lengths = [[len(word) for word in each] for each in words]
    assert len({length for each in lengths for length in each}) > 1
    for total, mean, length in zip(sums, means, lengths, strict=True):
        assert mean == pytest.approx([value / tokens for value, tokens in zip(total, length, strict=True)])


def test_all_words_of_one_token_have_probabilities_that_add_up_to_one(model: Any) -> None:
    vocabulary = [[token] for token in range(model.config.vocab_size)]
    (row,) = score_label_words(model, [[5, 6, 7]], [vocabulary], batch_size=64).logprobs
    assert sum(math.exp(value) for value in row) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(("prompts", "words"), [([[]], [[[1]]]), ([[1]], [[[]]]), ([[1]], [])])
def test_nothing_to_score_is_refused(model: Any, prompts: Any, words: Any) -> None:
    with pytest.raises(ValueError, match="at least one token"):
        score_label_words(model, prompts, words, batch_size=1)


def test_scores_by_hand() -> None:
    wanted = ["a", "a", "a", "b", "b", "c"]
    predicted = ["a", "a", "b", "b", "a", "b"]
    assert accuracy(predicted, wanted) == 0.5
    assert confusion(predicted, wanted) == {
        "a": {"a": 2, "b": 1, "c": 0},
        "b": {"a": 1, "b": 1, "c": 0},
        "c": {"a": 0, "b": 1, "c": 0},
    }
    assert f1_by_label(predicted, wanted) == {"a": 2 / 3, "b": 0.4, "c": 0}


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abc")), min_size=1))
def test_scores_agree_with_precision_and_recall(pairs: list[tuple[str, str]]) -> None:
    predicted, wanted = [list(side) for side in zip(*pairs, strict=True)]
    for label, found in f1_by_label(predicted, wanted).items():
        right = pairs.count((label, label))
        precision = right / predicted.count(label) if label in predicted else 0
        recall = right / wanted.count(label) if label in wanted else 0
        assert found == pytest.approx(2 * precision * recall / (precision + recall) if right else 0)
    matrix = confusion(predicted, wanted)
    assert sum(sum(row.values()) for row in matrix.values()) == len(pairs)
    assert accuracy(predicted, wanted) == pytest.approx(sum(matrix[label][label] for label in matrix) / len(pairs))


LABELLED: list[dict[str, object]] = [
    {"text": " ".join(VOCABULARY[place : place + 4]), "label": place % 2} for place in range(8)
]


@pytest.fixture
def evaluated(
    recipe: Callable[..., Path], ftune: Callable[..., Done], tmp_path: Path
) -> Callable[[list[str]], tuple[Done, dict[str, Any]]]:
    """`ftune eval` of a run on rows with two labels."""

    def run(labels: list[str]) -> tuple[Done, dict[str, Any]]:
        write_rows(tmp_path / "labelled.jsonl", LABELLED)
        layout = {"type": "classification", "labels": labels}
        data = {"train": "labelled.jsonl", "validation": "labelled.jsonl", "format": layout}
        assert ftune("sft", recipe(data=data)).code == 0
        done = ftune("eval", "runs/tiny", "max_new_tokens=2", "samples=0")
        assert done.code == 0, done.err
        return done, json.loads((tmp_path / "runs/tiny/eval/eval.json").read_text())["metrics"]

    return run


def test_eval_of_rows_with_labels_compares_their_words(
    evaluated: Callable[..., tuple[Done, dict[str, Any]]], model: Any, tokenizer: Any, tmp_path: Path
) -> None:
    words = ["no", "yes"]
    done, metrics = evaluated(words)
    layout = ClassificationFormat(labels=words).bound(LABELLED, seed=0)
    predicted = []
    for row in LABELLED:
        turn = {"role": "user", "content": layout.to_example(row).messages[0].content}  # type: ignore[union-attr]
        text = tokenizer.apply_chat_template([turn], tokenize=False, add_generation_prompt=True)
        found = [one_token_at_a_time(model, tokenizer(text).input_ids, tokenizer(word).input_ids) for word in words]
        predicted.append(words[found.index(max(found))])
    wanted = [words[place % 2] for place in range(8)]
    assert metrics["label_accuracy"]["before"] == accuracy(predicted, wanted)
    labels = json.loads((tmp_path / "runs/tiny/eval/eval.json").read_text())["labels"]
    assert labels["before"] == {"f1": f1_by_label(predicted, wanted), "confusion": confusion(predicted, wanted)}
    assert labels.keys() == {"before", "after"}
    assert any(line.startswith("label accuracy ") for line in done.out.splitlines())


def test_eval_says_when_label_words_cannot_be_compared(evaluated: Callable[..., tuple[Done, dict[str, Any]]]) -> None:
    done, metrics = evaluated(["no", "not"])
    assert "the tokens of the label word 'no' begin those of 'not'" in done.err
    assert "label_accuracy" not in metrics
    assert "exact_match" in metrics
