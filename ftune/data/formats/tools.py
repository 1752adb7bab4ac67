"""Tools of a conversation: what may be called, and calls, in every writing that is met."""

import json
from collections.abc import Mapping
from typing import Any

from ftune.core.errors import DataError
from ftune.data.example import ToolCall
from ftune.data.formats.base import Values, checked_text, described, text_of
from ftune.data.formats.cells import parsed

TOOLS = ("tools", "functions")
"""Names of the column with the functions; the second is that of OpenAI's first API."""


def tools_of(row: Values) -> tuple[Mapping[str, Any], ...]:
    """The functions under one of `TOOLS`, a list or its JSON text, each as OpenAI's API describes it.

    A bare description {name, description, parameters} is put under `function`.
    """
    name = next((name for name in TOOLS if row.get(name)), TOOLS[0])
    tools = _items(row.get(name), f"'{name}'", "a list of functions, or that list as JSON text")
    return tuple(_tool(tool, f"{name}[{index}]") for index, tool in enumerate(tools))


def calls_of(value: object, place: str) -> tuple[ToolCall, ...]:
    """One call or a list of calls, as objects or as JSON text: {name, arguments}, bare or under `function`."""
    calls = _items(value, place, "a call {name, arguments}, or a list of them")
    many = len(calls) > 1
    return tuple(_call(call, f"{place}[{index}]" if many else place) for index, call in enumerate(calls))


def _items(value: object, place: str, wanted: str) -> list[object]:
    """Nothing, one object or a list, as a list."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return []
    found = parsed(value)
    if isinstance(found, dict):
        return [found]
    if not isinstance(found, list):
        raise DataError(f"{place} is {described(found)}; it must be {wanted}")
    return found


def _tool(value: object, place: str) -> Mapping[str, Any]:
    function = _function(value, place)
    _name(function, place)
    return {"type": "function", "function": _json_object(function, place)}


def _call(value: object, place: str) -> ToolCall:
    function = _function(value, place)
    name = _name(function, place)
    arguments = function.get("arguments")
    if arguments is None or arguments == "":
        return ToolCall(name, {})
    return ToolCall(name, _json_object(parsed(arguments), f"the arguments of {place}"))


def _function(value: object, place: str) -> dict[str, Any]:
    found = parsed(value)
    function = found.get("function", found) if isinstance(found, dict) else found
    if not isinstance(function, dict):
        raise DataError(f"{place} is {described(function)}; a function is an object with 'name'")
    return function


def _name(function: dict[str, Any], place: str) -> str:
    """The function's name."""
    try:
        return text_of(function, "name")
    except DataError as error:
        raise DataError(f"{place}: {error}") from None


def _json_object(value: object, place: str) -> dict[str, Any]:
    """The value if it is an object that can be written as JSON text, as templates do."""
    if not isinstance(value, dict):
        raise DataError(f"{place} is {described(value)}; it must be an object")
    try:
        checked_text(json.dumps(value, ensure_ascii=False, allow_nan=False), place)
    except (TypeError, ValueError, RecursionError) as error:
        raise DataError(f"{place} cannot be written as JSON: {error}") from None
    return value
