"""JSON: a list of objects, or objects one after another. Which of the two, the first character says, not the name.

One damaged row costs that row. Reading goes on with the next line; in a list, and where objects stretch over many
lines, with the next line that begins with a brace and is not indented deeper than the damaged object.
"""

import re
import sys
from collections.abc import Iterator
from json import JSONDecodeError
from typing import Any

from ftune.data.formats.base import described
from ftune.data.readers.opening import DataFile
from ftune.data.readers.options import MAX_ROW, Options
from ftune.data.readers.window import COMMA, DECODER, DuplicateKeyError, TooLongError, Window
from ftune.data.readers.wrapped import list_window, rows_key
from ftune.data.row import BadRow, Row

OPEN = ("{", "[", ",", ":")
"""How the first line of an object ends that goes on in the next one."""
NEXT_LINE = re.compile(r"\n")
TRUNCATED = (
    "Unterminated string",
    "Expecting value",
    "Expecting ',' delimiter",
    "Expecting property name",
    "Expecting ':'",
)


def json_rows(file: DataFile, options: Options) -> Iterator[Row | BadRow]:
    """The objects of the file, each with the line where it begins. Raises DataError for an object that is no row.

    Objects that Python wrote with `repr` are read too. One object that wraps all rows (`{"data": [...]}`) is held in
    memory whole; apart from that, memory holds one row.
    """
    with file.text() as text:
        window = Window(text)
        rows = _JsonRows(file.path, window, options)
        if window.skip() == "[":
            yield from rows.items()
            if window.skip():
                rest = window.text[window.position : window.position + 20]
                cause = f"{rest!r} follows the list; a file holds one list, or one object a line"
                yield BadRow(file.path, window.line, 0, cause)
        else:
            yield from rows.unwrapped()


class _JsonRows:
    """Reads one file, or one list inside of it."""

    def __init__(self, path: str, window: Window, options: Options) -> None:
        self.path, self.window, self.options = path, window, options
        self.literals = False
        self.first = ""

    def unwrapped(self) -> Iterator[Row | BadRow]:
        """The objects; where there is only one, perhaps the rows that it wraps."""
        rows = self.objects()
        begin = [row for row in (next(rows, None), next(rows, None)) if row]
        key = rows_key(begin[0], self.options.split) if len(begin) == 1 and isinstance(begin[0], Row) else None
        if key is None or not isinstance(begin[0], Row):
            yield from begin
            yield from rows
            return
        wrapper = begin[0]
        others = ", ".join(f"'{other}'" for other in wrapper.values if other != key)
        beside = f"; not read: {others}" if others else ""
        self.options.remark(f"{self.path}: the rows are the list under '{key}' of the one object in the file{beside}")
        if self.literals:
            items: Any = wrapper.values[key]
            yield from (self.item(item, wrapper.line) for item in items)
        else:
            yield from _JsonRows(self.path, list_window(self.first, wrapper.line, key), self.options).items()

    def objects(self) -> Iterator[Row | BadRow]:
        """Objects one after another, as a rule one a line."""
        window, path = self.window, self.path
        while window.skip():
            line = window.line
            value = self.value(in_list=False)
            if isinstance(value, BadRow):
                yield value
                continue
            follows = window.next_on_line()
            if follows and not (follows == "{" and isinstance(value, dict)):
                rest = window.text[window.position : window.position + 20].split("\n")[0].rstrip()
                cause = f"{rest!r} follows the row; one JSON object a line is needed"
                yield BadRow(path, line, window.column(window.position), cause)
                window.seek(NEXT_LINE)
            elif isinstance(value, dict):
                yield Row(value, path, line)
                window.skip()
                for value, line in window.objects_by_line():
                    yield Row(value, path, line)
            else:
                yield BadRow(path, line, 0, f"this line is {described(value)}; a row is a JSON object {{...}}")

    def items(self) -> Iterator[Row | BadRow]:
        """The items of the list that begins at the window's position; goes behind it."""
        window = self.window
        window.go(window.position + 1)
        while (char := window.skip()) != "]":
            if not char:
                yield self.bad(JSONDecodeError("Expecting value", "", 0), "", window.position)
                return
            line = window.line
            value = self.value(in_list=True)
            yield self.item(value, line)
            if window.over(COMMA):
                continue
            char = window.skip()
            if char == ",":
                window.go(window.position + 1)
            elif isinstance(value, BadRow):
                if not char:
                    return
            elif char != "]":
                yield self.bad(JSONDecodeError("Expecting ',' delimiter", char, 0), char, window.position)
                if char != "{":
                    window.seek(_sibling(window.column(window.position)))
                if not window.skip():
                    return
        window.go(window.position + 1)

    def item(self, value: Any, line: int) -> Row | BadRow:
        """What an item of the list is; a BadRow is itself."""
        if isinstance(value, dict):
            return Row(value, self.path, line)
        if isinstance(value, BadRow):
            return value
        cause = f"this item of the list is {described(value)}; a row is a JSON object {{...}}"
        return BadRow(self.path, line, 0, cause)

    def value(self, *, in_list: bool) -> Any:
        """The value at the window's position, or a BadRow; goes behind it, or to where reading can go on."""
        window, line = self.window, self.window.line
        try:
            value, end = window.value()
        except TooLongError:
            bad = BadRow(self.path, line, 0, f"a row of more than {MAX_ROW:,} characters, or one that does not end")
        except DuplicateKeyError as error:
            bad = BadRow(self.path, line, 0, f"key '{error}' is given twice; which one is meant?")
            if behind := window.end_of_value():
                window.go(behind)
                return bad
        except RecursionError:
            bad = BadRow(self.path, line, 0, "nested too deeply to be a row")
        except ValueError as error:
            if found := window.literal(error):
                return self.python(*found)
            bad = self.diagnosed(error, self.onward(in_list))
        else:
            self.first = self.first or window.text[window.position : end]
            window.go(end)
            return value
        window.seek(self.onward(in_list))
        return bad

    def python(self, value: Any, end: int) -> Any:
        """A Python literal where JSON should be."""
        if not self.literals:
            self.options.remark(f"{self.path}: rows are Python literals (written with repr or str), not JSON")
        self.literals = True
        self.window.go(end)
        return _with_text_keys(value)

    def onward(self, in_list: bool) -> re.Pattern[str]:
        """Behind which pattern to read on, where the value at the window's position is damaged."""
        text, start = self.window.text, self.window.position
        line_end = text.find("\n", start)
        over_lines = text.startswith("{", start) and text[start : max(line_end, start)].rstrip().endswith(OPEN)
        return _sibling(self.window.column(start)) if in_list or over_lines else NEXT_LINE

    def diagnosed(self, error: ValueError, onward: re.Pattern[str]) -> BadRow:
        """What is wrong with the text up to where reading goes on: an open quote fails only in the row behind it."""
        text, start = self.window.text, self.window.position
        found = onward.search(text, start)
        damaged = text[start : found.start() if found else None]
        try:
            DECODER.raw_decode(damaged)
        except ValueError as inner:
            return self.bad(inner, damaged, start)
        except RecursionError:
            pass
        return self.bad(error, text, 0)

    def bad(self, error: ValueError, text: str, start: int) -> BadRow:
        """What stands for the row at the window's position; `text`, which failed, begins at `start` of the window's."""
        index = start + error.pos if isinstance(error, JSONDecodeError) else self.window.position
        return BadRow(self.path, *self.window.place(index), _cause(error, text))


def _with_text_keys(value: Any) -> Any:
    """A Python value whose keys are texts, as those of JSON are: a table without a header has 0, 1, 2."""
    if isinstance(value, dict):
        return {key if isinstance(key, str) else str(key): _with_text_keys(inner) for key, inner in value.items()}
    return [_with_text_keys(inner) for inner in value] if isinstance(value, list | tuple) else value


def _sibling(column: int) -> re.Pattern[str]:
    """The beginning of the next line with an object that is not indented deeper than `column`, from 1."""
    return re.compile(rf"\n[ \t]{{0,{column - 1}}}(?=\{{)")


def _cause(error: ValueError, text: str) -> str:
    """The decoder's words; a text that ends too early is called truncated, which is what happened to it."""
    if not isinstance(error, JSONDecodeError):  # Python converts no longer digits, and tells how to change Python
        return f"a whole number of more than {sys.get_int_max_str_digits():,} digits cannot be read; write it as text"
    if "\udc00" <= (found := text[error.pos : error.pos + 1]) <= "\udcff":
        byte = f"byte 0x{ord(found) - 0xDC00:02x}"
        return f"{byte} is not text in the encoding of this file; name the right one as 'encoding'"
    words = error.msg[0].lower() + error.msg[1:].removesuffix(" at").removesuffix(" starting")
    at_end = not text[error.pos :].strip() or error.msg.startswith("Unterminated string")
    if at_end and error.msg.startswith(TRUNCATED):
        return f"truncated JSON: {words}; the file is cut off or the row broken by a line end"
    return f"not valid JSON: {words}"
