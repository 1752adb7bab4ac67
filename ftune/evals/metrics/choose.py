"""`auto`: the metrics that a set of references can feed."""

from statistics import median

from ftune.evals.metrics.base import Metric, References
from ftune.evals.metrics.bleu import Bleu
from ftune.evals.metrics.chrf import Chrf
from ftune.evals.metrics.empty import Empty
from ftune.evals.metrics.exact_match import ExactMatch
from ftune.evals.metrics.json_fields import JsonFields, fields_of
from ftune.evals.metrics.length import Length
from ftune.evals.metrics.numeric import MARK, Numeric, final_number
from ftune.evals.metrics.repetition import Repetition
from ftune.evals.metrics.rouge import Rouge

TEXT = 25
"""References of so many characters, in the median, are text that can be more or less right."""


def metrics_for(references: References) -> list[Metric]:
    """What fits the references: exact match, then JSON, numbers or text by what they are; and what needs none.

    JSON where all are objects; numbers where all are one, or have GSM8K's `####`; ROUGE, BLEU and chrF for texts. Some
    may be `absent()` on this machine: then the caller leaves them out and says so.
    """
    needing_none: list[Metric] = [Length(), Repetition(), Empty()]
    given = [each for row in references for each in row]
    if not given:
        return needing_none
    chosen: list[Metric] = [ExactMatch()]
    if all(each.lstrip().startswith("{") and fields_of(each) is not None for each in given):
        chosen.append(JsonFields())
    elif all(_is_number(each) for each in given):
        chosen.append(Numeric())
    elif median(map(len, given)) >= TEXT:
        chosen += [metric for metric in (Rouge(), Bleu(), Chrf()) if not metric.unfit(references)]
    return chosen + needing_none


def _is_number(text: str) -> bool:
    """Whether it is a number, or has one where GSM8K puts it."""
    if final_number(text) is None:
        return False
    return MARK in text or (len(text.split()) == 1 and not any(map(str.isalpha, text)))
