"""Regular expressions: found, counted, compared; broken ones refused with the recipe."""

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from ftune.core.variants import union_of
from ftune.evals.metrics.base import Answer, Metric
from ftune.evals.metrics.regex import Regex

OPTION = r"(?i)answer is \(?([A-D])|^([A-D])$"


def value(metric: Regex, completion: str, *references: str) -> float | None:
    return metric.score([Answer(completion, references)])["regex"].rows[0]


@pytest.mark.parametrize(
    ("completion", "references", "right"),
    [
        ("So the answer is (B).", ("B",), 1),
        ("So the answer is (B).", ("C", "The answer is B"), 1),
        ("The answer is A, no, the answer is B", ("B",), 0),
        ("B", ("The answer is B",), 1),
        ("I do not know", ("B",), 0),
        ("I do not know", ("I do not know",), 0),
        ("", ("",), 0),
    ],
)
def test_groups_are_compared(completion: str, references: tuple[str, ...], right: float) -> None:
    assert value(Regex(pattern=OPTION, compare="group"), completion, *references) == right


def test_groups_need_references() -> None:
    assert value(Regex(pattern=OPTION, compare="group"), "B") is None
    assert Regex(pattern=OPTION, compare="group").unfit([[]])
    assert not Regex(pattern=OPTION).unfit([[]])


@pytest.mark.parametrize(("completion", "count"), [("", 0), ("sorry", 1), ("Sorry, sorry", 2)])
def test_matches_are_found_and_counted_without_references(completion: str, count: int) -> None:
    metric = Regex(pattern="(?i)sorry", compare="count", better="lower")
    assert value(metric, completion) == count
    assert value(Regex(pattern="(?i)sorry"), completion) == min(count, 1)
    assert (metric.kinds()["regex"].better, metric.kinds()["regex"].scale) == ("lower", "number")


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"pattern": "(["}, "is no regular expression: unterminated character set"),
        ({"pattern": "B", "compare": "group"}, "the pattern has no group to compare"),
        ({"pattern": "B", "name": "two words"}, "should match pattern"),
        ({}, "pattern"),
    ],
)
def test_what_cannot_work_is_refused_with_the_recipe(recipe: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message.replace("(", r"\(")):
        TypeAdapter(union_of(Metric)).validate_python({"type": "regex", **recipe})
