"""Metrics that compare a completion with its reference as text or as JSON."""

import json
from collections.abc import Callable

Metric = Callable[[str, str], float]
"""From completion and reference to a score between 0 and 1."""


def exact_match(completion: str, reference: str) -> float:
    """1 when both are the same text but for blanks around them."""
    return float(completion.strip() == reference.strip())


def valid_json(completion: str, reference: str) -> float:
    """1 when the completion is one JSON value and nothing else; the reference is not looked at."""
    return float(_parsed(completion) is not None)


def json_match(completion: str, reference: str) -> float:
    """Share of the reference object's fields that the completion has with the same value."""
    wanted, found = _parsed(reference), _parsed(completion)
    if not isinstance(wanted, dict) or not isinstance(found, dict):
        return float(wanted is not None and wanted == found)
    right = [key for key, value in wanted.items() if found.get(key, _MISSING) == value]
    return len(right) / max(len(wanted), 1)


METRICS: dict[str, Metric] = {"exact match": exact_match, "valid JSON": valid_json, "JSON fields right": json_match}

_MISSING = object()


def _parsed(text: str) -> object:
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value


def metrics_for(references: list[str]) -> dict[str, Metric]:
    """Exact match, and the JSON metrics where all references are JSON objects."""
    if all(isinstance(_parsed(reference), dict) for reference in references):
        return METRICS
    return {"exact match": exact_match}
