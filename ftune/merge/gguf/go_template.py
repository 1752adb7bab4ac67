"""The part of Go's text/template that ftune's Modelfiles use, rendered as Ollama renders it.

It is here for the proof that a written template gives the trained prompts, so what it does not know is an error and
never a guess. Known: text, `{{ value }}`, `{{ $x := value }}`, `{{ $x = value }}`, `if`, `else if`, `else`,
`range $i, $x := list`, `end`, trimming by `{{-`, and the functions eq, ne, and, not, len, slice.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

_STRING = r'"(?:[^"\\]|\\.)*"'
_ACTION = re.compile(rf"\{{\{{(- )?\s*((?:{_STRING}|[^\"}}]|\}}(?!\}}))*?)\s*\}}\}}")
_WORD = re.compile(rf'{_STRING}|[()]|[^\s()"]+')
_DECLARATION = re.compile(r"(\$\w+)\s*:?=\s*(.*)", re.DOTALL)
_LOOP = re.compile(r"range (\$\w+), (\$\w+) := (.*)", re.DOTALL)

Part: TypeAlias = tuple[str, str]
"""`text` or `action`, and its content."""

Expression: TypeAlias = "str | list[Expression]"


def render_go(template: str, values: Mapping[str, Any]) -> str:
    """The text that `template` gives for `values`; ValueError for what is not known here."""
    parts = list(_parts(template))
    out: list[str] = []
    if (end := _block(parts, 0, values, {"$": values}, out)) != len(parts):
        raise ValueError(f"'{parts[end][1]}' closes nothing")
    return "".join(out)


def _parts(template: str) -> Iterator[Part]:
    place = 0
    for match in _ACTION.finditer(template):
        text = template[place : match.start()]
        yield "text", text.rstrip(" \t\r\n") if match[1] else text
        yield "action", match[2]
        place = match.end()
    yield "text", template[place:]


def _block(parts: Sequence[Part], start: int, dot: Any, names: dict[str, Any], out: list[str] | None) -> int:
    """Render from `start` to the `else` or `end` that closes this block; returns its index. Without `out`, pass by."""
    place = start
    while place < len(parts):
        kind, content = parts[place]
        if kind == "text":
            if out is not None:
                out.append(content)
        elif content == "end" or content.split(" ")[0] == "else":
            return place
        elif content.startswith("if "):
            place = _if(parts, place, dot, names, out)
        elif content.startswith("range "):
            place = _range(parts, place, dot, names, out)
        elif out is not None:
            _act(content, dot, names, out)
        place += 1
    return place


def _if(parts: Sequence[Part], start: int, dot: Any, names: dict[str, Any], out: list[str] | None) -> int:
    place, condition, done = start, parts[start][1].removeprefix("if "), out is None
    while True:
        chosen = not done and bool(_value(condition, dot, names))
        place = _closing(parts, _block(parts, place + 1, dot, names, out if chosen else None))
        done = done or chosen
        if parts[place][1] == "end":
            return place
        condition = parts[place][1].removeprefix("else").strip().removeprefix("if ") or "true"


def _range(parts: Sequence[Part], start: int, dot: Any, names: dict[str, Any], out: list[str] | None) -> int:
    if not (loop := _LOOP.fullmatch(parts[start][1])):
        raise ValueError(f"unknown loop '{parts[start][1]}'")
    for index, item in enumerate(_value(loop[3], dot, names) if out is not None else []):
        names |= {loop[1]: index, loop[2]: item}
        _block(parts, start + 1, item, names, out)
    return _closing(parts, _block(parts, start + 1, dot, names, None))


def _closing(parts: Sequence[Part], place: int) -> int:
    if place == len(parts):
        raise ValueError("an 'end' is missing")
    return place


def _act(content: str, dot: Any, names: dict[str, Any], out: list[str]) -> None:
    if declaration := _DECLARATION.fullmatch(content):
        names[declaration[1]] = _value(declaration[2], dot, names)
    elif isinstance(value := _value(content, dot, names), str):
        out.append(value)
    else:
        raise ValueError(f"'{content}' is no text")


def _value(text: str, dot: Any, names: Mapping[str, Any]) -> Any:
    words = _WORD.findall(text)
    if words.count("(") != words.count(")"):
        raise ValueError(f"'{text}' has a bracket too many or too few")
    return _evaluate(_nested(words)[0], dot, names)


def _nested(words: list[str]) -> tuple[Expression, list[str]]:
    found: list[Expression] = []
    while words:
        word, *words = words
        if word == ")":
            return found, words
        if word == "(":
            inner, words = _nested(words)
            found.append(inner)
        else:
            found.append(word)
    return found, []


def _evaluate(expression: Expression, dot: Any, names: Mapping[str, Any]) -> Any:
    if isinstance(expression, str):
        return _operand(expression, dot, names)
    head, *rest = expression
    if isinstance(head, list) or not rest:
        return _evaluate(head, dot, names)
    values = [_evaluate(one, dot, names) for one in rest]
    match head, values:
        case "eq", [one, other]:
            return one == other
        case "ne", [one, other]:
            return one != other
        case "and", [*all_of]:
            return next((one for one in all_of if not one), all_of[-1])
        case "not", [one]:
            return not one
        case "len", [one]:
            return len(one)
        case "slice", [one, int(first)]:
            return one[first:]
    raise ValueError(f"unknown function '{head}' of {len(values)} values")


def _operand(word: str, dot: Any, names: Mapping[str, Any]) -> Any:
    if word.startswith('"'):
        return json.loads(word)
    if word.isdigit():
        return int(word)
    if word == "true":
        return True
    name, *fields = word.split(".")
    if name and name not in names:
        raise ValueError(f"unknown name '{word}'")
    value = names[name] if name else dot
    for field in fields:
        value = value[field]
    return value
