"""JSON: a list of objects, or one object a line. Which of the two, the first character says, not the file's name."""

import json
from collections.abc import Iterator
from json import JSONDecodeError
from pathlib import Path
from typing import TextIO

from ftune.core.errors import DataError
from ftune.data.formats.base import described, quoted_keys
from ftune.data.readers.compressed import open_text
from ftune.data.readers.faults import Faults
from ftune.data.row import Row

BLANKS = " \t\r\n"
TRUNCATED = (
    "Unterminated string",
    "Expecting value",
    "Expecting ',' delimiter",
    "Expecting property name",
    "Expecting ':'",
)
DECODER = json.JSONDecoder()


def json_rows(path: Path) -> Iterator[Row]:
    """The objects of a JSON list, each with the line where it begins, or of JSON Lines."""
    with open_text(path) as file:
        first, lines_before = _first_character(file)
        if first == "[":
            yield from _list_rows(path, file)
        elif first:
            yield from _line_rows(path, file, lines_before)


def _first_character(file: TextIO) -> tuple[str, int]:
    """The first character that is not blank, and the number of lines before its line; rewinds to that line."""
    lines = 0
    while line := file.readline():
        if text := line.strip(BLANKS):
            break
        lines += 1
    else:
        return "", lines
    file.seek(0)
    for _ in range(lines):
        file.readline()
    return text[0], lines


def _line_rows(path: Path, file: TextIO, lines_before: int) -> Iterator[Row]:
    faults = Faults(path)
    for number, whole_line in enumerate(file, lines_before + 1):
        line = whole_line.rstrip(BLANKS)
        if not line:
            continue
        try:
            value, end = DECODER.raw_decode(line, _skip(line, 0))
        except RecursionError:
            faults.add(str(number), "nested too deeply to be a row")
        except ValueError as error:
            if number == lines_before + 1:
                _refuse_one_object(path, whole_line + file.read())
            faults.add(f"{number}:{_column(error)}", _cause(error, line))
        else:
            if rest := line[_skip(line, end) :]:
                place = f"{number}:{len(line) - len(rest) + 1}"
                faults.add(place, f"{rest[:20]!r} follows the row; one JSON object a line is needed")
            elif isinstance(value, dict):
                yield Row(value, str(path), number)
            else:
                faults.add(str(number), f"this line is {described(value)}; a row is a JSON object {{...}}")
    faults.finish()


def _refuse_one_object(path: Path, text: str) -> None:
    """A file that is one object over many lines is no set of rows; anything else is left to the line reader."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return
    raise DataError(
        f"{path}:1: the file is one object with {quoted_keys(tuple(value))}, not rows; "
        "write the rows as a JSON list [...] or one object a line"
    )


def _list_rows(path: Path, file: TextIO) -> Iterator[Row]:
    text, faults = file.read(), Faults(path)
    position, line, counted = text.index("[") + 1, 1, 0
    position = _skip(text, position)
    while text[position : position + 1] != "]":
        line += text.count("\n", counted, position)
        counted = position
        try:
            value, end = DECODER.raw_decode(text, position)
        except RecursionError:
            raise DataError(f"{path}:{line}: nested too deeply to be a row") from None
        except ValueError as error:
            raise DataError(f"{path}:{_place(error, text, position)}: {_cause(error, text)}") from None
        if isinstance(value, dict):
            yield Row(value, str(path), line)
        else:
            faults.add(str(line), f"this item of the list is {described(value)}; a row is a JSON object {{...}}")
        position = _after_item(path, text, end)
    if rest := text[position + 1 :].strip(BLANKS):
        line += text.count("\n", counted, len(text) - len(rest))
        faults.add(str(line), f"{rest[:20]!r} follows the list; a file holds one list, or one object a line")
    faults.finish()


def _after_item(path: Path, text: str, end: int) -> int:
    """Where the next item or the closing bracket stands."""
    position = _skip(text, end)
    if text[position : position + 1] == "]":
        return position
    if text[position : position + 1] == ",":
        return _skip(text, position + 1)
    error = JSONDecodeError("Expecting ',' delimiter", text, position)
    raise DataError(f"{path}:{error.lineno}:{error.colno}: {_cause(error, text)}")


def _skip(text: str, position: int) -> int:
    while text[position : position + 1] in BLANKS and position < len(text):
        position += 1
    return position


def _column(error: ValueError) -> int:
    return error.colno if isinstance(error, JSONDecodeError) else 1


def _place(error: ValueError, text: str, position: int) -> str:
    place = error if isinstance(error, JSONDecodeError) else JSONDecodeError("", text, position)
    return f"{place.lineno}:{place.colno}"


def _cause(error: ValueError, text: str) -> str:
    """The decoder's words; a text that ends too early is called truncated, which is what happened to it."""
    if not isinstance(error, JSONDecodeError):
        return f"not valid JSON: {error}"
    words = error.msg[0].lower() + error.msg[1:].removesuffix(" at")
    at_end = not text[error.pos :].strip(BLANKS) or error.msg.startswith("Unterminated string")
    if at_end and error.msg.startswith(TRUNCATED):
        return f"truncated JSON: {words}; the file is cut off or the row broken by a line end"
    return f"not valid JSON: {words}"
