"""ROUGE: rouge-score's own values, and a slow count of our own."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from ftune.evals.metrics.base import Answer
from ftune.evals.metrics.rouge import Rouge

WORDS = ["the", "cats", "cat", "sat", "running", "ran", "Mats", ".", "5", "-"]
TEXT = st.lists(st.sampled_from(WORDS), max_size=10).map(" ".join)


def counted(made: str, wanted: str, size: int) -> tuple[float, float]:
    """Precision and recall of n-grams, from blanks and small letters only."""
    grams = [Counter(zip(*(text.split()[place:] for place in range(size)), strict=False)) for text in (made, wanted)]
    shared = sum((grams[0] & grams[1]).values())
    return shared / grams[0].total(), shared / grams[1].total()


def longest(made: list[str], wanted: list[str]) -> int:
    if not made or not wanted:
        return 0
    if made[-1] == wanted[-1]:
        return 1 + longest(made[:-1], wanted[:-1])
    return max(longest(made[:-1], wanted), longest(made, wanted[:-1]))


def test_values_are_those_of_a_slow_count() -> None:
    made, wanted = "the small cat sat on a mat", "the cat sat down on the small mat"
    found = {name: scored.value for name, scored in Rouge().score([Answer(made, (wanted,))]).items()}
    for size in (1, 2):
        precision, recall = counted(made, wanted, size)
        f1 = 2 * precision * recall / (precision + recall)
        names = (f"rouge{size}_precision", f"rouge{size}_recall", f"rouge{size}")
        assert [found[name] for name in names] == pytest.approx([precision, recall, f1])
    assert found["rougeL_precision"] == pytest.approx(longest(made.split(), wanted.split()) / 7)
    assert found["rougeL_recall"] == pytest.approx(longest(made.split(), wanted.split()) / 8)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=4), st.booleans())
def test_values_are_those_of_rouge_score(pairs: list[tuple[str, str]], stemmer: bool) -> None:
    library = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=stemmer)
    found = Rouge(stemmer=stemmer).score([Answer(made, (wanted,)) for made, wanted in pairs])
    for row, (made, wanted) in enumerate(pairs):
        if not any(map(str.isalnum, wanted)):
            assert {scored.rows[row] for scored in found.values()} == {None}
            continue
        for name, score in library.score(wanted, made).items():
            values = [found[f"{name}{part}"].rows[row] for part in ("_precision", "_recall", "")]
            assert values == [score.precision, score.recall, score.fmeasure]


def test_the_best_reference_counts() -> None:
    found = Rouge().score([Answer("a cat", ("nothing", "a cat", "the cat"))])
    assert {scored.value for scored in found.values()} == {1.0}


def test_an_empty_completion_scores_nothing_but_is_scored() -> None:
    found = Rouge().score([Answer("", ("a cat",)), Answer("a cat", ())])
    assert all(list(scored.rows) == [0.0, None] for scored in found.values())


def test_languages_that_it_cannot_read_are_refused() -> None:
    assert "use 'chrf'" in Rouge().unfit([["Привет, как дела GPT"]])
    assert not Rouge().unfit([["Où est la bibliothèque"]])
    assert Rouge().unfit([["..."], []]) == "no reference has a word in it"
    assert Rouge().unfit([[], []]) == "the rows have no answers to compare with"


def test_what_is_not_installed_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(Rouge().faults()) == []
    monkeypatch.setattr(Rouge, "package", ("not_there_at_all", "rouge-score"))
    ((place, message),) = Rouge().faults()
    assert place == ("type",)
    assert message == "'rouge' needs the package 'rouge-score': pip install 'ftune[eval]'"
