"""What BLEU, chrF and TER have in common: sacrebleu, and values of a corpus that are no means of rows' values."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from ftune.evals.metrics.base import Answer, Metric, Row
from ftune.evals.scored import Pool, Scored

if TYPE_CHECKING:
    from ftune.evals.scored import Floats


class Translation(Metric):
    """A metric of sacrebleu, in points: counts are summed over rows before they are divided."""

    package: ClassVar[tuple[str, str] | None] = ("sacrebleu", "sacrebleu")

    @abstractmethod
    def library(self) -> Any:
        """The metric as sacrebleu has it."""

    @abstractmethod
    def of_corpus(self, sums: "Floats") -> "Floats":
        """The library's own score for sums of its counts over rows, shape (..., S) to (...)."""

    def of_rows(self, counts: "Floats") -> "Floats":
        """Its score of a single row, shape (rows, S) to (rows,)."""
        return self.of_corpus(counts)

    def open(self) -> Callable[[Answer], Row]:
        """One row as a corpus of its own."""

        def score(answer: Answer) -> Row:
            return [scored.rows[0] for scored in self.score([answer]).values()]

        return score

    def score(self, answers: Sequence[Answer]) -> dict[str, Scored]:
        """The value of each row, and the counts that the value of a corpus is made of."""
        ((name, kind),) = self.kinds().items()
        places = [place for place, answer in enumerate(answers) if self.can_score(answer)]
        if not places:
            return {name: Scored([None] * len(answers), kind)}
        import numpy as np

        counts, signature = _counts(self.library(), [answers[place] for place in places])
        values = self.of_rows(np.array(counts, dtype=np.float64))
        rows: list[float | None] = [None] * len(answers)
        statistics: list[Sequence[float]] = [()] * len(answers)
        for place, value, row in zip(places, values, counts, strict=True):
            rows[place], statistics[place] = float(value), row
        return {name: Scored(rows, kind, Pool(statistics, self.of_corpus), signature=signature)}


def _counts(library: Any, answers: Sequence[Answer]) -> tuple[list[list[float]], str]:
    """The library's counts of each row, and its signature.

    The counts are not public in sacrebleu 2.6, but the same since 2.0: its own significance tests resample them.
    """
    most = max(len(answer.references) for answer in answers)
    padded = [[*answer.references, *[None] * (most - len(answer.references))] for answer in answers]
    completions = [answer.completion for answer in answers]
    counts: list[list[float]] = library._extract_corpus_statistics(completions, list(zip(*padded, strict=True)))
    return counts, str(library.get_signature())
