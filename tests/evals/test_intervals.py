"""Intervals of a difference: they cover the truth as often as they say, and say nothing where nothing is known."""

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ftune.evals.intervals import Comparison, compare, moved
from ftune.evals.metrics.base import Answer
from ftune.evals.metrics.bleu import Bleu
from ftune.evals.scored import Kind, Pool, Scored

EXPERIMENTS = 200
Floats = NDArray[np.float64]
Draw = Callable[[np.random.Generator, int], tuple[Floats, Floats]]
SCORE = st.none() | st.integers(-9, 9).map(lambda number: number / 4)
ROWS = st.lists(st.tuples(SCORE, SCORE), min_size=1, max_size=8)


def one(before: Scored, after: Scored, **options: int) -> Comparison:
    return compare({"x": before}, {"x": after}, **options)["x"]


def plain(*pairs: tuple[float | None, float | None], kind: Kind = Kind()) -> Comparison:  # noqa: B008
    return one(Scored([first for first, _ in pairs], kind), Scored([last for _, last in pairs], kind))


def binary(draw: np.random.Generator, rows: int) -> tuple[Floats, Floats]:
    """Right in 40 % and then 55 % of the rows, mostly in the same ones."""
    ease = draw.random(rows)
    return (ease < 0.4) * 1.0, (ease + draw.uniform(-0.15, 0.15, rows) < 0.55) * 1.0


def skewed(draw: np.random.Generator, rows: int) -> tuple[Floats, Floats]:
    """Losses with a long tail; their means differ by 0.3."""
    return draw.exponential(1.0, rows), draw.exponential(0.7, rows)


def overlap(draw: np.random.Generator, rows: int) -> tuple[Floats, Floats]:
    """Such as ROUGE: means 0.1 and 2 / 7."""
    return draw.beta(1, 9, rows), draw.beta(2, 5, rows)


@pytest.mark.parametrize(
    ("draw", "rows", "truth"),
    [
        (binary, 30, 0.15),
        (binary, 150, 0.15),
        (skewed, 20, -0.3),
        (skewed, 100, -0.3),
        (overlap, 8, 2 / 7 - 0.1),
        (overlap, 15, 2 / 7 - 0.1),
    ],
)
def test_the_interval_covers_the_truth(draw: Draw, rows: int, truth: float) -> None:
    random = np.random.default_rng(rows)
    pairs = [draw(random, rows) for _ in range(EXPERIMENTS)]
    before, after = ({str(number): Scored(pair[side].tolist()) for number, pair in enumerate(pairs)} for side in (0, 1))
    found = compare(before, after, resamples=2000).values()
    covered = sum(each.low is not None and each.high is not None and each.low <= truth <= each.high for each in found)
    assert 0.90 <= covered / EXPERIMENTS <= 0.99


def perplexity(sums: Floats) -> Floats:
    return np.exp(sums[..., 0] / sums[..., 1])


def test_the_interval_of_a_perplexity_covers_the_truth() -> None:
    random = np.random.default_rng(5)
    before, after = {}, {}
    for number in range(EXPERIMENTS):
        tokens = random.integers(5, 100, 60)
        for side, mean in ((before, 2.0), (after, 1.7)):
            losses = tokens * random.normal(mean, 0.2, 60)
            pool = Pool(list(zip(losses.tolist(), tokens.tolist(), strict=True)), perplexity)
            side[str(number)] = Scored(np.exp(losses / tokens).tolist(), Kind("lower", "number"), pool)
    found = compare(before, after, resamples=2000).values()
    truth = math.exp(1.7) - math.exp(2.0)
    covered = sum(each.low is not None and each.high is not None and each.low <= truth <= each.high for each in found)
    assert 0.90 <= covered / EXPERIMENTS <= 0.99


def test_three_rows_reach_as_far_as_any_draw_of_them() -> None:
    texts = ["the cat sat on the mat", "birds sing in the old tree", "it rains a lot in the north"]
    made = ["the cat sat on a mat", "birds sing in a tall tree", "it rains a lot in the north"]
    worse = ["a cat sat on the mat", "the birds in the old tree", "it snows a lot in the north"]

    def bleu(side: list[str], rows: tuple[int, ...]) -> float:
        score: float = sacrebleu.BLEU().corpus_score([side[row] for row in rows], [[texts[row] for row in rows]]).score
        return score

    ((before,), (after,)) = (
        Bleu().score([Answer(text, (wanted,)) for text, wanted in zip(side, texts, strict=True)]).values()
        for side in (worse, made)
    )
    found = one(before, after)
    every = [bleu(made, rows) - bleu(worse, rows) for rows in product(range(3), repeat=3)]
    assert [found.low, found.high] == pytest.approx([min(every), max(every)])
    assert found.difference == pytest.approx(bleu(made, (0, 1, 2)) - bleu(worse, (0, 1, 2)))


def test_rows_are_paired() -> None:
    ease = np.random.default_rng(0).normal(0, 10, 100)
    noise = np.random.default_rng(1).normal(0, 0.1, 100)
    found = one(Scored(ease.tolist()), Scored((ease + 1 + noise).tolist()))
    assert found.low is not None
    assert found.high is not None
    assert 0.9 < found.low < 1 + noise.mean() < found.high < 1.1
    assert found.high - found.low == pytest.approx(4 * noise.std(ddof=1) / 10, rel=0.1)


def test_the_seed_decides_and_other_values_do_not() -> None:
    random = np.random.default_rng(0)
    before, after = ({name: Scored(random.random(9).tolist()) for name in "ab"} for _ in range(2))
    both = compare(before, after)
    assert both["b"] == compare({"b": before["b"]}, {"b": after["b"]})["b"]
    assert both == compare(before, after)
    other = compare(before, after, seed=1)
    assert (other["b"].difference, other["b"].low) != (both["b"].difference, both["b"].low)
    assert other["b"].difference == both["b"].difference


def test_one_row_and_rows_that_all_change_alike_have_no_interval() -> None:
    single = plain((0.25, 0.5))
    assert (single.difference, single.low, single.high, single.rows) == (0.25, None, None, 1)
    alike = plain((0.1, 0.3), (0.5, 0.7), (0.4, 0.6))
    assert alike.difference == pytest.approx(0.2)
    assert (alike.low, alike.high, alike.better) == (None, None, 3)
    same = plain((0.1, 0.1), (0.0, 0.0))
    assert (same.difference, same.low, same.high, same.better, same.worse) == (0, None, None, 0, 0)


def test_two_rows_reach_from_one_to_the_other() -> None:
    found = plain((0, 0.25), (0, 1))
    assert (found.low, found.high) == (0.25, 1)


def test_missing_rows_are_left_out_of_both_and_counted() -> None:
    found = plain((0.0, 1.0), (None, 1.0), (0.5, None), (1.0, 0.5), (None, None), (0.2, 0.4))
    kept = plain((0.0, 1.0), (1.0, 0.5), (0.2, 0.4))
    assert (found.rows, found.missing, kept.missing) == (3, 3, 0)
    assert replace(found, missing=0) == kept
    nothing = plain((None, 1.0), (1.0, None))
    assert nothing == Comparison(Kind(), None, None, None, None, None, 0, 0, 0, 2)
    assert plain().rows == plain().missing == 0


@settings(max_examples=50, deadline=None)
@given(ROWS)
def test_counts_and_ends_agree_with_a_slow_count(rows: list[tuple[float | None, float | None]]) -> None:
    found = compare(
        {"x": Scored([first for first, _ in rows])}, {"x": Scored([last for _, last in rows])}, resamples=200
    )["x"]
    both = [(first, last) for first, last in rows if first is not None and last is not None]
    assert (found.rows, found.missing) == (len(both), len(rows) - len(both))
    if both:
        differences = [last - first for first, last in both]
        assert found.difference == pytest.approx(sum(differences) / len(both))
        assert found.better == sum(each > 0 for each in differences)
        assert found.worse == sum(each < 0 for each in differences)
        if found.low is not None and found.high is not None:
            assert min(differences) - 1e-9 <= found.low <= found.high <= max(differences) + 1e-9


def test_which_way_is_better_is_the_metrics_own() -> None:
    pairs = [(1.0, 2.0), (5.0, 2.0), (3.0, 3.5), (1.0, 1.0)]
    counts = {}
    for better in ("higher", "lower", "neither"):
        found = plain(*pairs, kind=Kind(better))  # type: ignore[arg-type]
        counts[better] = (found.better, found.worse)
    assert counts == {"higher": (2, 1), "lower": (1, 2), "neither": (None, None)}
    assert moved(Scored([first for first, _ in pairs]), Scored([last for _, last in pairs])) == ([0, 2], [1])


def test_a_value_that_is_no_sum_over_rows_has_no_interval() -> None:
    found = one(Scored([0.5, 1.0], whole=0.6), Scored([0.5, 0.2], whole=0.4))
    assert (found.before, found.after, found.low, found.high, found.worse) == (0.6, 0.4, None, None, 1)
    assert found.difference == pytest.approx(-0.2)


def test_what_does_not_belong_together_is_refused() -> None:
    with pytest.raises(ValueError, match="x: 1 rows before and 2 after"):
        one(Scored([1.0]), Scored([1.0, 2.0]))
    with pytest.raises(ValueError, match="row 1 scores nan"):
        Scored([1.0, math.nan])
    with pytest.raises(ValueError, match="statistics of 1 rows for 2 rows"):
        Scored([1.0, 1.0], pool=Pool([(1.0, 1.0)], perplexity))
