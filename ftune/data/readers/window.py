"""A sliding window on a text file: JSON is decoded in it value by value, so memory holds one row and not the file."""

import ast
import json
import re
import warnings
from collections.abc import Iterator
from json import JSONDecodeError
from typing import Any, TextIO

from ftune.data.readers.options import MAX_ROW

CHUNK = 1 << 16
"""Characters that are read at once, at least. Few, as every error of the decoder counts the lines of all of them."""

BLANKS = re.compile(r"[ \t\r\n\ufeff]*")
BLANKS_OF_LINE = re.compile(r"[ \t\r\ufeff]*")
COMMA = re.compile(r"[ \t\r\n]*,[ \t\r\n]*(?=\S)")
"""Between two items of a list."""
LITERAL_MARKS = ("'", "(", "None", "True", "False", "\\x", "\\'", "\\U")
"""How a part of a Python literal begins that is no JSON; the last three are escapes inside of strings."""

TOKEN = re.compile(r"""'[^'\\\n]*(?:\\.[^'\\\n]*)*'|"[^"\\\n]*(?:\\.[^"\\\n]*)*"|[\[({]|[\])}]|['"]""")
"""What matters for the end of a Python literal: whole strings, brackets, and quotes that nothing closes."""


class DuplicateKeyError(ValueError):
    """One object gives a key twice."""


class TooLongError(ValueError):
    """A value has no end within the longest row that is read."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        keys = [key for key, _ in pairs]
        raise DuplicateKeyError(next(key for key in keys if keys.count(key) > 1))
    return value


DECODER = json.JSONDecoder(strict=False, object_pairs_hook=_object)
"""Takes raw control characters inside strings; refuses a key that is given twice."""
ANY_KEYS = json.JSONDecoder(strict=False)


class Window:
    """`text[position:]` is what comes next; `line` (from 1) is where `position` is. `more` and `go` move it."""

    def __init__(self, file: TextIO, line: int = 1) -> None:
        self.text, self.position, self.line = "", 0, line
        self._file, self._before = file, 0

    def more(self) -> bool:
        """Forget what was gone over, and read on; False at the end. Raises TooLongError."""
        left = self.text[self.position :]
        if len(left) > MAX_ROW:
            raise TooLongError
        chunk = self._file.read(max(CHUNK, len(left)))  # doubled: a long row is decoded few times
        if chunk:
            self._before = self.column(self.position) - 1
            self.text, self.position = left + chunk, 0
        return bool(chunk)

    def go(self, position: int) -> None:
        """Go on to this index of `text`."""
        self.line += self.text.count("\n", self.position, position)
        self.position = position

    def skip(self) -> str:
        """Go over blanks; the character that follows them, or nothing at the end."""
        while (end := BLANKS.match(self.text, self.position).end()) == len(self.text):  # type: ignore[union-attr]
            self.go(end)
            if not self.more():
                return ""
        self.go(end)
        return self.text[end]

    def objects_by_line(self) -> Iterator[tuple[dict[str, Any], int]]:
        """The objects that follow one a line, and their lines, as long as nothing else does: the quick way."""
        text, position, line = self.text, self.position, self.line
        while text.startswith("{", position):
            if text.find("\n", position) < 0 and len(text) - position < CHUNK and self.more():
                text, position = self.text, self.position  # a row that the window cuts is not decoded twice
            try:
                value, end = DECODER.raw_decode(text, position)
            except (ValueError, RecursionError):
                return
            if not text.startswith("\n", end):
                return
            begin = line
            line += text.count("\n", position, end) + 1
            position = end + 1
            self.position, self.line = position, line
            yield value, begin

    def over(self, pattern: re.Pattern[str]) -> bool:
        """Go over a match of the pattern that begins here and ends before the window does, if there is one."""
        found = pattern.match(self.text, self.position)
        if found is None or found.end() == len(self.text):
            return False
        self.go(found.end())
        return True

    def seek(self, pattern: re.Pattern[str]) -> None:
        """Go behind the next match of a pattern that begins with a line end, or to the end of the file."""
        while not (found := pattern.search(self.text, self.position)):
            last = self.text.rfind("\n", max(self.position, len(self.text) - CHUNK))
            begun = last >= 0 and self.text[last:].isspace()
            self.go(last if begun else len(self.text))
            if not self.more():
                self.go(len(self.text))
                return
        self.go(found.end())

    def column(self, index: int) -> int:
        """The column, from 1, of an index of `text` on its line."""
        line_start = self.text.rfind("\n", 0, index) + 1
        return index - line_start + 1 + (0 if line_start else self._before)

    def place(self, index: int) -> tuple[int, int]:
        """Line and column of an index of `text` that is not before `position`."""
        return self.line + self.text.count("\n", self.position, index), self.column(index)

    def next_on_line(self) -> str:
        """Like `skip`, but no further than the end of this line, where it gives nothing."""
        while (end := BLANKS_OF_LINE.match(self.text, self.position).end()) == len(self.text):  # type: ignore[union-attr]
            self.go(end)
            if not self.more():
                return ""
        self.go(end)
        return "" if self.text[end] == "\n" else self.text[end]

    def value(self) -> tuple[Any, int]:
        """The JSON value at `position`, and the index behind it.

        Raises ValueError, among them JSONDecodeError and those of this module, and RecursionError.
        """
        return self._decoded(DECODER)

    def end_of_value(self) -> int | None:
        """The index behind the JSON value at `position`, whatever its keys are; None where it is damaged beside."""
        try:
            return self._decoded(ANY_KEYS)[1]
        except (ValueError, RecursionError):
            return None

    def _decoded(self, decoder: json.JSONDecoder) -> tuple[Any, int]:
        while True:
            try:
                value, end = decoder.raw_decode(self.text, self.position)
            except JSONDecodeError as error:
                if not (_unfinished(error) and self.more()):
                    raise
            else:
                if end < len(self.text) or isinstance(value, dict) or not self.more():
                    return value, end

    def literal(self, error: ValueError) -> tuple[Any, int] | None:
        """The Python literal (a `repr`) at `position` and the index behind it, where JSON failed with `error`."""
        if not isinstance(error, JSONDecodeError) or not self.text.startswith(LITERAL_MARKS, error.pos):
            return None
        try:
            while (end := _literal_end(self.text, self.position)) is None:
                if not self.more():
                    return None
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # unknown escapes, such as '\d', are no concern of the reader
                return ast.literal_eval(self.text[self.position : end]), end
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            return None


def _unfinished(error: JSONDecodeError) -> bool:
    """Whether the value may be right, had the window not ended: a pair of escapes is the longest single step."""
    return error.msg.startswith("Unterminated string") or error.pos > len(error.doc) - 16


def _literal_end(text: str, start: int) -> int | None:
    """The index behind the bracket that closes the one at `start`; None where the text ends before it.

    Raises ValueError for a string that is not closed on its line: `repr` writes none.
    """
    depth = 0
    for token in TOKEN.finditer(text, start):
        match token[0]:
            case "[" | "(" | "{":
                depth += 1
            case "]" | ")" | "}":
                depth -= 1
            case "'" | '"':
                if "\n" in text[token.end() :]:
                    raise ValueError("a string without an end")
                return None
        if depth == 0:
            return token.end()
    return None
