"""Before and after on the same rows: how much a value has changed, and how sure that is.

The interval is a paired bootstrap (Efron, 1979; for corpus metrics Koehn, EMNLP 2004): rows are drawn with replacement,
the same for both systems, and the difference is computed on each draw. The percentiles that are taken are a little
wider than 2.5 and 97.5 where rows are few ("expanded percentile"; Hesterberg, arXiv:1411.5279): the plain
ones are as narrow as if the variance were known. Of 1,000 simulated experiments with 10 rows each of normal, skewed and
ROUGE-like scores, these cover the true difference in 94 to 95 of 100, the plain ones in 88 to 91, BCa in 86 to 91; from
50 rows on, there is no difference to speak of.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

from ftune.evals.scored import Kind, Scored

if TYPE_CHECKING:
    from ftune.evals.scored import Floats

RESAMPLES = 10_000

_CELLS = 2_000_000
"""How many draws are held in memory at once."""

_ROUNDING = 1e-12
"""Differences that are closer to each other than this share of the values are equal."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """A value of two systems on the rows that are scored for both."""

    kind: Kind
    before: float | None
    """None, as are all others, without a row that is scored for both."""
    after: float | None
    difference: float | None
    """After less before."""
    low: float | None
    """Lower end of the 95 % interval of the difference. None where resampling says nothing: for one row, where all
    rows have changed by the same, and for a value that no sums over rows give."""
    high: float | None
    rows: int
    """Pairs that both values are of."""
    better: int | None
    """Rows that got better; None where neither way is good."""
    worse: int | None
    missing: int
    """Rows that one of the two has no score for, left out of everything above."""


def compare(
    before: Mapping[str, Scored], after: Mapping[str, Scored], *, seed: int = 0, resamples: int = RESAMPLES
) -> dict[str, Comparison]:
    """Every value that both have, by its name, in the order of `after`.

    Rows are matched by their place. The same seed draws the same rows, and all values with the same missing rows see
    the same draws, so that a value's interval does not depend on which others there are. Raises ValueError where the
    two have different numbers of rows.
    """
    groups: dict[tuple[int, ...], list[str]] = {}
    for name in (name for name in after if name in before):
        if len(before[name].rows) != len(after[name].rows):
            raise ValueError(f"{name}: {len(before[name].rows)} rows before and {len(after[name].rows)} after")
        groups.setdefault(_paired(before[name], after[name]), []).append(name)
    done: dict[str, Comparison] = {}
    for rows, names in groups.items():
        pairs = [(before[name], after[name]) for name in names]
        done |= zip(names, _compared(pairs, rows, seed, resamples), strict=True)
    return {name: done[name] for name in after if name in done}


def moved(before: Scored, after: Scored) -> tuple[list[int], list[int]]:
    """Rows whose score rose and rows whose score fell, those that moved farthest first, by their places."""
    change = {row: _change(before, after, row) for row in _paired(before, after)}
    rose = sorted((row for row in change if change[row] > 0), key=lambda row: -change[row])
    return rose, sorted((row for row in change if change[row] < 0), key=lambda row: change[row])


def _paired(before: Scored, after: Scored) -> tuple[int, ...]:
    both = enumerate(zip(before.rows, after.rows, strict=True))
    return tuple(row for row, pair in both if None not in pair)


def _change(before: Scored, after: Scored, row: int) -> float:
    first, last = before.rows[row] or 0.0, after.rows[row] or 0.0
    return last - first if abs(last - first) > _ROUNDING * max(abs(first), abs(last)) else 0.0


def _compared(pairs: list[tuple[Scored, Scored]], rows: tuple[int, ...], seed: int, resamples: int) -> list[Comparison]:
    """Values that have the same rows, resampled together: their statistics side by side."""
    import numpy as np

    if not rows:
        return [_unmeasured(*pair) for pair in pairs]
    tables = [scored.statistics(rows) for pair in pairs for scored in pair]
    ends = np.cumsum([table.shape[1] for table in tables])[:-1]
    drawn = np.split(_resampled(np.hstack(tables), seed, resamples), ends, axis=1)
    tail = _tail(len(rows)) if len(rows) > 1 else None
    done = []
    for place, (before, after) in enumerate(pairs):
        sums = [table.sum(0) for table in tables[2 * place : 2 * place + 2]]
        first, last = (
            scored.whole if scored.whole is not None else float(scored.of(total))
            for scored, total in zip((before, after), sums, strict=True)
        )
        low = high = None
        if tail is not None and before.whole is None and after.whole is None:
            differences = after.of(drawn[2 * place + 1]) - before.of(drawn[2 * place])
            if np.ptp(differences) > _ROUNDING * max(abs(first), abs(last)):
                low, high = (float(end) for end in np.quantile(differences, (tail, 1 - tail)))
        up, down = (len(side) for side in moved(before, after))
        better, worse = {"higher": (up, down), "lower": (down, up), "neither": (None, None)}[after.kind.better]
        missing = len(after.rows) - len(rows)
        done.append(Comparison(after.kind, first, last, last - first, low, high, len(rows), better, worse, missing))
    return done


def _unmeasured(before: Scored, after: Scored) -> Comparison:
    """Without a row that is scored for both; a value that comes without rows is known all the same."""
    first, last = before.whole, after.whole
    if not after.rows and first is not None and last is not None:
        return Comparison(after.kind, first, last, last - first, None, None, 0, None, None, 0)
    count = None if after.kind.better == "neither" else 0
    return Comparison(after.kind, None, None, None, None, None, 0, count, count, len(after.rows))


def _resampled(statistics: "Floats", seed: int, resamples: int) -> "Floats":
    """Sums of the statistics, shape (rows, S), over rows drawn with replacement: shape (resamples, S)."""
    import numpy as np

    draw = np.random.default_rng(seed)
    rows = len(statistics)
    at_once = max(1, _CELLS // rows)
    sums = []
    for start in range(0, resamples, at_once):
        size = min(at_once, resamples - start)
        places = draw.integers(0, rows, (size, rows)) + rows * np.arange(size)[:, None]
        times = np.bincount(places.ravel(), minlength=size * rows).reshape(size, rows)
        sums.append(times @ statistics)
    return np.concatenate(sums)


def _tail(rows: int) -> float:
    """The share of draws below the interval: Phi(-sqrt(n / (n - 1)) t), with Student's t of n - 1 degrees.

    Its quantile by the first terms of Cornish and Fisher's expansion: within 0.3 % of the true one from 5 rows on;
    with fewer rows the interval ends at the outermost draws either way.
    """
    normal, degrees = NormalDist(), rows - 1
    z = normal.inv_cdf(0.975)
    terms = ((z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96, (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384)
    student = z + sum(term / degrees**power for power, term in enumerate(terms, 1))
    return normal.cdf(-math.sqrt(rows / degrees) * student)
