"""A number that is right or wrong, as in GSM8K (arXiv:2110.14168)."""

from collections.abc import Sequence
from typing import Literal

from ftune.core.errors import RewardError
from ftune.core.suggest import did_you_mean
from ftune.evals.metrics.numeric import final_number
from ftune.rewards.base import RewardSource, Sample, Score, Scorer, Surroundings


class Numeric(RewardSource):
    """1 where the completion's final number equals the row's, else 0."""

    type: Literal["numeric"] = "numeric"

    column: str | None = None
    """The column that holds the right answer; by default the row's own answer."""

    def open(self, around: Surroundings) -> Scorer:
        """Ready at once."""

        def score(samples: Sequence[Sample]) -> list[Score]:
            return [self._judged(sample) for sample in samples]

        return score

    def _judged(self, sample: Sample) -> Score:
        """None where the right answer is no number."""
        wanted = final_number(self._wanted(sample))
        return None if wanted is None else float(final_number(sample.completion) == wanted)

    def _wanted(self, sample: Sample) -> str:
        if self.column is None:
            if sample.reference is None:
                raise RewardError(
                    f"{sample.origin}: the row has no answer to compare with; name the 'column' that holds it"
                )
            return sample.reference
        if sample.columns.get(self.column) is None:
            raise RewardError(
                f"{sample.origin}: the row has nothing in column '{self.column}'"
                f"{did_you_mean(self.column, sample.columns.keys() - {self.column})}"
            )
        return str(sample.columns[self.column])
