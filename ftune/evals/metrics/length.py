"""How long completions are."""

from collections.abc import Callable, Mapping
from typing import ClassVar, Literal

from ftune.evals.metrics.base import Answer, Metric, Row
from ftune.evals.scored import Kind


class Length(Metric):
    """The mean length of the completions; neither long nor short is better."""

    needs_references: ClassVar[bool] = False

    type: Literal["length"] = "length"

    unit: Literal["tokens", "words", "characters"] = "words"
    """What is counted: stretches between blanks, characters, or the model's tokens without the stop token. A model's
    tokens are its own: two models with different tokenizers are better compared by words."""

    def kinds(self) -> Mapping[str, Kind]:
        """One number."""
        return {f"length_{self.unit}": Kind("neither", "number")}

    def open(self) -> Callable[[Answer], Row]:
        """Ready at once."""
        return lambda answer: [self._of(answer)]

    def _of(self, answer: Answer) -> float | None:
        """None where tokens are counted that are not known."""
        if self.unit == "tokens":
            return None if answer.token_ids is None else float(len(answer.token_ids))
        return float(len(answer.completion.split() if self.unit == "words" else answer.completion))
