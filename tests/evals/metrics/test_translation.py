"""BLEU, chrF and TER: of rows and of corpora they are sacrebleu's own, and sums of counts are enough."""

import numpy as np
import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st

from ftune.evals.metrics.base import Answer
from ftune.evals.metrics.bleu import Bleu
from ftune.evals.metrics.chrf import Chrf
from ftune.evals.metrics.ter import Ter
from ftune.evals.metrics.translation import Translation
from ftune.evals.scored import Scored

ROWS = [
    ("the cat sat on the mat.", "The cat sat on the mat."),
    ("a dog", "There is a dog in the garden, and it barks."),
    ("", "Something else entirely"),
    ("He said: 'no, thanks'; then he left & went home again", "He said no, thanks, and then he left and went home."),
    ("nothing is right here at all", "quite another sentence"),
    ("yes", "yes"),
]
WORDS = ["the", "cat", "sat", "on", "a", "Mat", ".", ",", "and", "mats"]
TEXT = st.lists(st.sampled_from(WORDS), max_size=9).map(" ".join)
PAIRS = st.lists(st.tuples(TEXT, st.tuples(TEXT, TEXT)), min_size=1, max_size=6)

METRICS: list[Translation] = [Bleu(), Bleu(lowercase=True, tokenize="char"), Chrf(), Chrf(word_order=2), Ter()]


def scored(metric: Translation, answers: list[Answer]) -> Scored:
    ((_, one),) = metric.score(answers).items()
    return one


def by_hand(metric: Translation, completions: list[str], references: list[list[str]]) -> tuple[float, str]:
    """A corpus score of sacrebleu through its public classes; references are lists over rows."""
    match metric:
        case Bleu():
            library = sacrebleu.BLEU(tokenize=metric.tokenize, lowercase=metric.lowercase)
        case Chrf():
            library = sacrebleu.CHRF(word_order=metric.word_order)
        case _:
            library = sacrebleu.TER()
    return library.corpus_score(completions, references).score, str(library.get_signature())


@pytest.mark.parametrize("metric", METRICS, ids=repr)
def test_a_corpus_is_sacrebleus_and_its_signature_is_given(metric: Translation) -> None:
    found = scored(metric, [Answer(made, (wanted,)) for made, wanted in ROWS])
    value, signature = by_hand(metric, [made for made, _ in ROWS], [[wanted for _, wanted in ROWS]])
    assert value > 5
    assert found.value == pytest.approx(value)
    assert found.signature == signature


@settings(max_examples=60, deadline=None)
@given(PAIRS)
def test_any_corpus_of_two_references_is_sacrebleus(pairs: list[tuple[str, tuple[str, str]]]) -> None:
    answers = [Answer(made, wanted) for made, wanted in pairs]
    for metric in (Bleu(), Chrf(word_order=2), Ter()):
        value, _ = by_hand(
            metric, [made for made, _ in pairs], [[wanted[place] for _, wanted in pairs] for place in (0, 1)]
        )
        assert scored(metric, answers).value == pytest.approx(value)


@settings(max_examples=60, deadline=None)
@given(TEXT, TEXT)
def test_a_row_is_sacrebleus_sentence_score(made: str, wanted: str) -> None:
    answer = [Answer(made, (wanted,))]
    assert scored(Bleu(), answer).rows == [pytest.approx(sacrebleu.sentence_bleu(made, [wanted]).score)]
    assert scored(Chrf(), answer).rows == [pytest.approx(sacrebleu.sentence_chrf(made, [wanted]).score)]
    assert scored(Ter(), answer).rows == [pytest.approx(sacrebleu.sentence_ter(made, [wanted]).score)]


@pytest.mark.parametrize("metric", METRICS, ids=repr)
def test_resampled_sums_are_resampled_corpora(metric: Translation) -> None:
    answers = [Answer(made, (wanted,)) for made, wanted in ROWS]
    whole = scored(metric, answers)
    draws = np.random.default_rng(0).integers(0, len(ROWS), (20, len(ROWS)))
    sums = np.stack([whole.statistics(draw.tolist()).sum(0) for draw in draws])
    slow = [by_hand(metric, [ROWS[r][0] for r in draw], [[ROWS[r][1] for r in draw]])[0] for draw in draws.tolist()]
    assert whole.of(sums) == pytest.approx(slow)


@pytest.mark.parametrize("metric", METRICS, ids=repr)
def test_rows_without_a_reference_are_missing_and_change_nothing(metric: Translation) -> None:
    answers = [Answer(made, (wanted,)) for made, wanted in ROWS]
    more = scored(metric, [Answer("to none"), *answers, Answer("")])
    assert more.missing == 2
    assert list(more.rows[1:-1]) == list(scored(metric, answers).rows)
    assert more.value == scored(metric, answers).value
    nothing = scored(metric, [Answer("to none")])
    assert (nothing.rows, nothing.value, nothing.signature) == ([None], None, "")


def test_rows_may_have_different_numbers_of_references() -> None:
    answers = [Answer("a small cat", ("a small cat", "the tiny cat")), Answer("one dog", ("a dog",))]
    found = scored(Bleu(), answers)
    wanted = sacrebleu.BLEU().corpus_score(
        ["a small cat", "one dog"], [["a small cat", "a dog"], ["the tiny cat", None]]
    )
    assert found.value == pytest.approx(wanted.score)
    assert "nrefs:var" in found.signature


def test_an_empty_completion_has_no_points_and_every_edit() -> None:
    answer = [Answer("", ("four words are here",))]
    assert [scored(metric, answer).value for metric in (Bleu(), Chrf(), Ter())] == [0, 0, 100]


def test_bleu_refuses_to_take_chinese_sentences_for_words() -> None:
    chinese = [["猫坐在垫子上。"], ["狗在花园里。"]]
    assert "'zh' or 'char'" in Bleu().unfit(chinese)
    assert not Bleu(tokenize="zh").unfit(chinese)
    assert not Chrf().unfit(chinese)
    assert scored(Bleu(tokenize="zh"), [Answer(*chinese[0], tuple(chinese[0]))]).value == pytest.approx(100)
