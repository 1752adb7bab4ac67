"""Validation errors in the words of the recipe: which key, what is wrong with it, what was meant."""

import re
from collections.abc import Iterable, Iterator
from typing import Any, get_args

from pydantic import BeforeValidator, ValidationError
from pydantic_core import ErrorDetails

from ftune.core.section import Location, Section
from ftune.core.suggest import did_you_mean
from ftune.core.variants import class_of
from ftune.core.yaml import dotted

_SHOULD_BE = {
    "int_type": "an integer",
    "int_from_float": "an integer",
    "int_parsing": "an integer",
    "float_type": "a number",
    "string_type": "text",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping of keys",
    "model_attributes_type": "a mapping of keys",
}

_MAPPINGS = {"model_type", "model_attributes_type", "dict_type"}


def explain(cls: type[Section], value: object, error: ValidationError) -> Iterator[tuple[Location, str]]:
    """Each fault of a validation error as its place in the recipe and a message that begins with the key."""
    grouped: dict[Location, list[ErrorDetails]] = {}
    for detail in error.errors(include_url=False):
        place = _place(value, detail["loc"], detail["type"])
        grouped.setdefault(place, []).append(detail)
    for place, details in grouped.items():
        if _looked_into(place, grouped) and all(_wanted(detail) for detail in details):
            continue  # a member of a union that the value is not of; the one that it is of says what is wrong inside
        message = _message(cls, place, details)
        if details[0]["type"] == "value_error":
            place, message = _named(value, place, message)
        yield place, f"{dotted(place)}: {message}" if place else message


def _looked_into(place: Location, faults: Iterable[Location]) -> bool:
    """Whether a fault lies inside of the value at a place."""
    return any(len(other) > len(place) and other[: len(place)] == place for other in faults)


def _message(cls: type[Section], place: Location, details: list[ErrorDetails]) -> str:
    """One message for all that was tried at a place: a value that fits no member of a union is one fault, not many."""
    detail = details[0]
    kind = detail["type"]
    context: dict[str, Any] = detail.get("ctx", {})
    found = _shown(detail["input"])
    if kind == "extra_forbidden":
        known = {name for section in _sections_at(cls, detail["loc"][:-1]) for name in section.model_fields}
        return f"unknown key{did_you_mean(str(place[-1]), known)}"
    if kind == "missing":
        return "required, but not given"
    if kind == "union_tag_not_found":
        known = {tag for section in _sections_at(cls, detail["loc"]) for tag in tags(section)}
        return f"needs a 'type'; known: {', '.join(sorted(known))}"
    if kind == "union_tag_invalid":
        known_tags = re.findall(r"'([^']+)'", context["expected_tags"])
        return f"unknown type '{context['tag']}'{did_you_mean(context['tag'], known_tags)}"
    if kind == "value_error":
        return str(context["error"])
    wanted = [text for each in details if (text := _wanted(each))]
    if wanted and kind in _MAPPINGS:
        wanted = [*_short_forms(cls, place), *wanted]
    if wanted:
        hint = "; put it in quotes" if wanted == ["text"] and isinstance(detail["input"], int | float) else ""
        if isinstance(detail["input"], str):
            literals = [name for each in details for name in _literals(each)]
            hint = did_you_mean(detail["input"], literals) if literals else ""
            hint = "" if hint.startswith("; known") else hint
        return f"should be {' or '.join(dict.fromkeys(wanted))}, got {found}{hint}"
    said = detail["msg"].removeprefix("Input ")
    return f"{said[0].lower()}{said[1:]}, got {found}"


def _wanted(detail: ErrorDetails) -> str:
    kind = detail["type"]
    if kind == "literal_error":
        return " or ".join(repr(name) for name in _literals(detail))
    if kind in ("greater_than", "greater_than_equal", "less_than", "less_than_equal"):
        words = {"greater_than": "above", "greater_than_equal": "at least", "less_than": "below"}
        limit = next(iter(detail.get("ctx", {}).values()))
        return f"{words.get(kind, 'at most')} {limit}"
    if kind == "too_short":
        return f"a list of at least {detail['ctx']['min_length']}"
    return _SHOULD_BE.get(kind, "")


def _short_forms(cls: type[Section], place: Location) -> list[str]:
    """What may stand for the mapping at a place, in words: a path for `data.train`, true for `data.streaming`."""
    keys = [part for part in place if isinstance(part, str)]
    fields = [section.model_fields.get(keys[-1]) for section in _sections_at(cls, place[: place.index(keys[-1])])]
    validators = [item for field in fields if field for item in field.metadata if isinstance(item, BeforeValidator)]
    forms = {form for validator in validators for form in get_args(validator.json_schema_input_type)}
    return [word for form, word in ((str, "text"), (bool, "true or false")) if form in forms]


def _literals(detail: ErrorDetails) -> list[str]:
    return (
        re.findall(r"'([^']+)'", detail.get("ctx", {}).get("expected", "")) if detail["type"] == "literal_error" else []
    )


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _place(value: object, loc: Location, kind: str) -> Location:
    """The part of an error's location that the recipe itself has.

    pydantic puts the names of union members between the keys, and validators may have put a short form into a longer
    one; neither is in the recipe as it was written.
    """
    place: list[str | int] = []
    for part in loc:
        inside = isinstance(value, dict) and part in value
        if inside or (isinstance(value, list) and isinstance(part, int) and part < len(value)):
            value = value[part]  # type: ignore[index]
            place.append(part)
    return (*place, loc[-1]) if kind == "missing" else tuple(place)


def _named(value: object, place: Location, message: str) -> tuple[Location, str]:
    """The place of the key that a validator's message begins with, where the recipe has it, and the rest of it."""
    key, _, rest = message.partition(": ")
    inner = tuple(key.split("."))
    for part in (*place, *inner):
        if isinstance(part, str) and not (isinstance(value, dict) and part in value):
            return place, message
        value = value[part]  # type: ignore[index]
    return (*place, *inner), rest


def _sections_at(cls: type[Section], loc: Location) -> list[type[Section]]:
    """The sections that a location may lie in: one, or the variants of a union."""
    inside = [cls]
    for part in loc:
        fields = [section.model_fields[part] for section in inside if part in section.model_fields]
        tagged = [class_of(section, str(part)) for section in inside if part in tags(section)]
        if fields:
            inside = [found for field in fields for found in _sections_in(field.annotation)]
        elif tagged:
            inside = tagged
    return inside


def tags(section: type[Section]) -> tuple[str, ...]:
    """The names in a section's `type` field."""
    return get_args(section.model_fields["type"].annotation) if "type" in section.model_fields else ()


def _sections_in(annotation: object) -> list[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [found for inner in get_args(annotation) for found in _sections_in(inner)]
