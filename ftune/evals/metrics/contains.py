"""Whether a completion has the reference somewhere in it."""

import re
from collections.abc import Callable, Mapping
from typing import Literal

from ftune.evals.metrics.base import Answer, Metric, References, Row
from ftune.evals.scored import Kind


class Contains(Metric):
    """1 where one of the references, without the blanks around it, occurs in the completion, else 0."""

    type: Literal["contains"] = "contains"

    case: bool = False
    """Whether capitals matter."""

    whole_words: bool = True
    """Whether `cat` is not in `cats`, nor `4` in `14`; set it to false for languages without blanks between words."""

    def kinds(self) -> Mapping[str, Kind]:
        """One share."""
        return {"contains": Kind()}

    def open(self) -> Callable[[Answer], Row]:
        """Ready at once."""
        return lambda answer: [self._of(answer)]

    def unfit(self, references: References) -> str:
        """An empty text is in every completion, so it says nothing."""
        if any(each.strip() for row in references for each in row):
            return ""
        return super().unfit(references) or "all references are empty"

    def _of(self, answer: Answer) -> float | None:
        """None where all references are empty."""
        wanted = [each.strip() for each in answer.references if each.strip()]
        return float(any(self._is_in(each, answer.completion) for each in wanted)) if wanted else None

    def _is_in(self, wanted: str, completion: str) -> bool:
        pattern = re.escape(wanted if self.case else wanted.casefold())
        if self.whole_words:  # at the edge of a sign such as $ there is no word to be whole
            pattern = rf"(?:(?<!\w)|(?!\w)){pattern}(?:(?!\w)|(?<!\w))"
        return re.search(pattern, completion if self.case else completion.casefold()) is not None
