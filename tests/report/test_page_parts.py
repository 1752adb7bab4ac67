"""The parts of the page that compute: ticks, thinning, differences between texts."""

import math
import re
import time

from hypothesis import given
from hypothesis import strategies as st

from ftune.report.curves import percent, power, short
from ftune.report.page.axis import decimal, tick_label, ticks
from ftune.report.page.samples import WORD, differences
from ftune.report.page.thinning import thinned
from ftune.report.run_record import Series

ranges = st.tuples(st.floats(-1e6, 1e6), st.floats(1e-4, 1e6)).map(lambda pair: (pair[0], pair[0] + pair[1]))


@given(ranges, st.integers(2, 12))
def test_ticks_are_round_within_the_range_and_apart_equally(bounds: tuple[float, float], most: int) -> None:
    low, high = bounds
    found = ticks(low, high, most)
    assert len(found) <= most
    slack = (high - low) * 1e-6
    assert all(low - slack <= tick <= high + slack for tick in found)
    if len(found) > 1:
        size = found[1] - found[0]
        digits = f"{size:.6e}".split("e")[0].rstrip("0").rstrip(".")
        assert digits in ("1", "2", "5") or math.isclose(size % 1, 0, abs_tol=1e-3)
        assert (high - low) / size >= len(found) - 1 - 1e-6


@given(st.integers(0, 10**6), st.integers(1, 10**6))
def test_whole_ticks_are_integers(low: int, span: int) -> None:
    assert all(tick == int(tick) for tick in ticks(low, low + span, 6, whole=True))


@given(ranges)
def test_neighbouring_ticks_have_different_labels(bounds: tuple[float, float]) -> None:
    found = ticks(*bounds, 6)
    for number in (short, percent):
        labels = [tick_label(tick, found[1] - found[0], number) for tick in found] if len(found) > 1 else []
        assert len(set(labels)) == len(labels)


def test_labels_are_short() -> None:
    assert [decimal(value, 0.5) for value in (0, -0.0, 1.5, 1234)] == ["0.0", "0.0", "1.5", "1,234.0"]
    assert [decimal(value, 5000) for value in (5000, 20_000, 1_005_000)] == ["5,000", "20k", "1.005M"]
    assert [decimal(value, 10) for value in (20_000, 20_010)] == ["20.00k", "20.01k"]
    assert decimal(20_001, 1) == "20.001k"
    assert tick_label(0.25, 0.05, percent) == "25%"
    assert tick_label(2e-4, 1e-4, power) == "2e-4"


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=300), st.integers(1, 50))
def test_thinning_keeps_extremes_and_the_mean(values: list[float], most: int) -> None:
    thin = thinned(Series(list(range(len(values))), values), most)
    assert len(thin.means) <= most
    assert (min(thin.lows), max(thin.highs)) == (min(values), max(values))
    sizes = [min(thin.group, len(values) - start) for start in range(0, len(values), thin.group)]
    total = sum(mean * size for mean, size in zip(thin.means, sizes, strict=True))
    assert math.isclose(total, sum(values), rel_tol=1e-6, abs_tol=1e-3)
    assert thin.steps == sorted(thin.steps)


@given(st.text(max_size=60), st.text(max_size=60))
def test_differences_lose_no_character_and_unmarked_words_are_in_both(text: str, against: str) -> None:
    pieces = differences(text, against)
    if pieces:
        assert "".join(piece.text for piece in pieces) == text
        kept = [word for piece in pieces if not piece.differs for word in re.findall(WORD, piece.text)]
        others = iter(re.findall(WORD, against))
        assert all(word in others for word in kept)  # in the same order: the iterator does not go back


def test_differing_words_are_marked() -> None:
    pieces = differences("It is 7 of twenty.", "It is 7 of ten.")
    assert [piece.text for piece in pieces if piece.differs] == ["twenty"]
    assert differences("Nothing alike here", "Entirely, other; words!") == []


def test_repeated_text_is_compared_in_time() -> None:
    started = time.process_time()
    differences("a " * 600, "a " * 599 + "b")
    differences("na " * 300 + "x", "na na no " * 100)
    assert time.process_time() - started < 1.0
