"""One JSON object that wraps rows: which of its keys holds them."""

from io import StringIO

from ftune.core.errors import DataError
from ftune.data.formats.base import quoted_keys
from ftune.data.readers.window import Window
from ftune.data.row import Row

SPLITS = ("train", "validation", "test")
TURN_KEYS = {"role", "from"}
"""What a turn of a conversation has, and rows do not."""


def rows_key(only: Row, split: str) -> str | None:
    """The key that holds the rows, where `only` is the one object of its file; None where it is a row itself.

    It holds a list that begins with an object that is no turn of a conversation, and all that stands beside it is
    single values, objects that are no turns either, empty lists, or more such lists: then the key is the one with the
    name of the `split`. Raises DataError where there is none, and for objects of columns and of objects, which are no
    rows either.
    """
    values, place = only.values, only.origin
    if values and all(isinstance(value, dict) and not TURN_KEYS & value.keys() for value in values.values()):
        raise _no_rows(place, f"one object of objects, with {quoted_keys(tuple(values))}")
    if _columns(values):
        raise _no_rows(place, f"one object of columns, with {quoted_keys(tuple(values))}")
    lists = [key for key, value in values.items() if _holds_rows(value)]
    if not lists or not all(_tells_of_rows(value) for key, value in values.items() if key not in lists):
        return None
    if split in lists:
        return split
    if len(lists) > 1 or lists[0] in SPLITS:
        raise DataError(
            f"{place}: the one object in the file has no rows under '{split}', but under {quoted_keys(tuple(lists))}; "
            "set 'split'"
        )
    return lists[0]


def list_window(text: str, line: int, key: str) -> Window:
    """A window at the list under `key` of the JSON object that is `text` and begins on `line`."""
    window = Window(StringIO(text), line)
    found = None
    while found != key:
        if found is not None:
            _over_value(window)
        _over_mark(window)  # { or ,
        window.skip()
        found, end = window.value()
        window.go(end)
        _over_mark(window)  # :
    window.skip()
    return window


def _over_mark(window: Window) -> None:
    window.skip()
    window.go(window.position + 1)


def _over_value(window: Window) -> None:
    window.skip()
    window.go(window.value()[1])


def _holds_rows(value: object) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict) and not TURN_KEYS & value[0].keys()


def _tells_of_rows(value: object) -> bool:
    """Whether it may stand beside rows: a version, a licence, an object with both."""
    return _single(value) or value == [] or (isinstance(value, dict) and not TURN_KEYS & value.keys())


def _single(value: object) -> bool:
    return not isinstance(value, list | dict)


def _columns(values: dict[str, object]) -> bool:
    """Whether these are several lists of equal length, longer than one, of single values."""
    lists = [value for value in values.values() if isinstance(value, list) and all(map(_single, value))]
    lengths = {len(column) for column in lists}
    return len(values) == len(lists) > 1 and len(lengths) == 1 and min(lengths) > 1


def _no_rows(place: str, what: str) -> DataError:
    return DataError(
        f"{place}: the file is {what}, not rows; write the rows as a JSON list [...] or one object a line"[:500]
    )
