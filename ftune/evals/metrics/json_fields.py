"""JSON: whether a completion can be read, and which fields of the reference it has right."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Literal, NoReturn, TypeAlias

from ftune.evals.metrics.base import Answer, Metric, References, Row
from ftune.evals.scored import Kind, Pool, Scored

if TYPE_CHECKING:
    from ftune.evals.scored import Floats

Fields: TypeAlias = dict[tuple[str, ...], object]
"""Values by the keys that lead to them, through objects in objects. A list is one value, and so is an empty object."""

_FENCED = re.compile(r"```(?:json)?\s*\n(.*?)\n?\s*```", re.DOTALL | re.IGNORECASE)


class JsonFields(Metric):
    """How much of the reference's JSON a completion has: valid at all, the same as a whole, and field by field.

    Precision, recall and F1 count the fields of all rows together ("micro"): a completion that is no JSON has none.
    The order of keys does not matter, the order of lists does, `1` and `1.0` are the same and `1` and `true` are not.
    """

    type: Literal["json_fields"] = "json_fields"

    fenced: bool = False
    """Also read what stands in a code block (three backquotes), whatever is around the block."""

    def kinds(self) -> Mapping[str, Kind]:
        """Five shares."""
        return {f"json_{name}": Kind() for name in ("valid", "exact", "precision", "recall", "f1")}

    def open(self) -> Callable[[Answer], Row]:
        """Ready at once."""
        return self._of

    def score(self, answers: Sequence[Answer]) -> dict[str, Scored]:
        """Fields are counted over all rows that have a reference to compare with."""
        kinds, columns = self.kinds(), self.columns(answers)
        counts = [self._counts(answer) or (0, 0, 0) for answer in answers]
        pools = (None, None, *(Pool(counts, value) for value in (_precision, _recall, _f1)))
        return {
            name: Scored(column, kinds[name], pool) for name, column, pool in zip(kinds, columns, pools, strict=True)
        }

    def can_score(self, answer: Answer) -> bool:
        """Whether a completion can be read is known without a reference."""
        return True

    def unfit(self, references: References) -> str:
        """References of which none is JSON."""
        if any(fields_of(each) is not None for row in references for each in row):
            return ""
        return super().unfit(references) or "no reference is JSON"

    def _of(self, answer: Answer) -> Row:
        """Without a reference that is JSON, only the first value."""
        valid = float(self._read(answer.completion) is not None)
        if (counts := self._counts(answer)) is None:
            return [valid, None, None, None, None]
        right, found, wanted = counts
        return [valid, float(right == found == wanted), right / max(found, 1), right / wanted, _share(counts)]

    def _counts(self, answer: Answer) -> tuple[int, int, int] | None:
        """Fields right, found and wanted, by the reference that gives the best F1; None without one that is JSON."""
        found = self._read(answer.completion) or {}
        wanted = [fields for each in answer.references if (fields := fields_of(each)) is not None]
        return max((_matched(found, each) for each in wanted), key=_share, default=None)

    def _read(self, completion: str) -> Fields | None:
        return fields_of(completion, fenced=self.fenced)


def fields_of(text: str, *, fenced: bool = False) -> Fields | None:
    """The fields of a JSON text, at least one; a text that is no object is one field without a key. None: no JSON."""
    try:
        return dict(_leaves((), read_json(text, fenced=fenced)))
    except (ValueError, RecursionError):
        return None


def read_json(text: str, *, fenced: bool = False) -> object:
    """What a JSON text says. A number is a pair of a word and its exact value, which no other JSON value is.

    With `fenced`, the first code block is read where there is one. Raises ValueError where it is no JSON, and for NaN
    and Infinity, which Python would read.
    """
    block = _FENCED.search(text) if fenced else None
    try:
        value: object = json.loads(
            block[1] if block else text, parse_int=_number, parse_float=_number, parse_constant=_refuse
        )
    except (ArithmeticError, RecursionError) as error:  # the first is an exponent beyond those of Decimal
        raise ValueError(str(error)) from None
    return value


def _leaves(place: tuple[str, ...], value: object) -> "list[tuple[tuple[str, ...], object]]":
    if not isinstance(value, dict) or not value:
        return [(place, value)]
    return [leaf for key, inner in value.items() for leaf in _leaves((*place, key), inner)]


def _number(text: str) -> tuple[str, Decimal]:
    """Python takes True for 1, and a float for integers beyond its digits."""
    return "number", Decimal(text)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)


def _matched(found: Fields, wanted: Fields) -> tuple[int, int, int]:
    right = sum(1 for place, value in wanted.items() if place in found and found[place] == value)
    return right, len(found), len(wanted)


def _share(counts: tuple[int, int, int]) -> float:
    """F1; something is wanted, so that there is no division by zero."""
    right, found, wanted = counts
    return 2 * right / (found + wanted)


def _precision(sums: "Floats") -> "Floats":
    """0 where nothing was found at all."""
    import numpy as np

    precision: Floats = sums[..., 0] / np.maximum(sums[..., 1], 1)
    return precision


def _recall(sums: "Floats") -> "Floats":
    recall: Floats = sums[..., 0] / sums[..., 2]
    return recall


def _f1(sums: "Floats") -> "Floats":
    f1: Floats = 2 * sums[..., 0] / (sums[..., 1] + sums[..., 2])
    return f1
