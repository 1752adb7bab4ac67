"""A regular expression that a completion should, or with a negative weight should not, match."""

import re
from collections.abc import Sequence
from typing import Literal

from ftune.evals.metrics.regex import Pattern
from ftune.rewards.base import RewardSource, Sample, Score, Scorer, Surroundings


class Regex(RewardSource):
    """Whether, or how often, a regular expression is found in the completion."""

    type: Literal["regex"] = "regex"

    pattern: Pattern
    """Python's syntax, searched anywhere: `(?i)` ignores case, `(?s)` lets a dot match line ends, `^` and `$` are
    the ends of the completion."""

    score: Literal["match", "count"] = "match"
    """`match`: 1 where it is found and 0 where not; `count`: how often it is found."""

    def open(self, around: Surroundings) -> Scorer:
        """Ready at once."""
        pattern = re.compile(self.pattern)

        def score(samples: Sequence[Sample]) -> list[Score]:
            if self.score == "match":
                return [float(pattern.search(sample.completion) is not None) for sample in samples]
            return [float(sum(1 for _ in pattern.finditer(sample.completion))) for sample in samples]

        return score
