"""Several prepared sources as one training set, each row as often as its source's weight says."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import fields

from ftune.data.checks import Check
from ftune.data.counts import Counts
from ftune.data.prepare import Prepared, fingerprint


def taken(rows: int, weight: float, seed: int) -> list[int]:
    """Indexes of the rows of one source: each floor(weight) times, then a seeded sample for the rest."""
    whole, part = divmod(weight, 1.0)
    sample = random.Random(seed).sample(range(rows), round(part * rows))  # noqa: S311 - a seeded draw, no secret
    return list(range(rows)) * int(whole) + sorted(sample)


def join(parts: Sequence[Prepared], takes: Sequence[Sequence[int]]) -> Prepared:
    """The rows at `takes` of each part, part after part; counts add up, `kept` and tokens are those of the result."""
    pairs = [(part, index) for part, indexes in zip(parts, takes, strict=True) for index in indexes]
    ids = [part.input_ids[index] for part, index in pairs]
    labels = [part.labels[index] for part, index in pairs]
    counts = _sum([part.counts for part in parts])
    counts.measure([len(row) for row in ids], [sum(label != -100 for label in row) for row in labels])
    return Prepared(
        input_ids=ids,
        labels=labels,
        origins=[part.origins[index] for part, index in pairs],
        counts=counts,
        format=", ".join(dict.fromkeys(part.format for part in parts)),
        reason="; ".join(dict.fromkeys(part.reason for part in parts)),
        fingerprint=fingerprint(ids, labels),
        checks=[_all(same) for same in zip(*(part.checks for part in parts), strict=True)],
    )


def _sum(parts: Sequence[Counts]) -> Counts:
    total = Counts()
    longest = max(parts, key=lambda counts: counts.longest)
    for field in fields(Counts):
        values = [getattr(counts, field.name) for counts in parts]
        if field.name == "dropped":
            total.dropped = dict(sum((Counter(value) for value in values), Counter()))
        elif isinstance(values[0], int):
            setattr(total, field.name, sum(values))
    total.longest, total.longest_row = longest.longest, longest.longest_row
    return total


def _all(same: Sequence[Check]) -> Check:
    """One check over all parts: it holds where it holds in each."""
    broken = [check for check in same if not check.ok]
    return Check(same[0].name, not broken, "; ".join(check.detail for check in broken or same))
