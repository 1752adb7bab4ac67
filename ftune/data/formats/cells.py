"""Lists and objects that a cell of a table holds as text."""

import ast
import json
import warnings


def parsed(value: object) -> object:
    """The list or object that a text holds as JSON or as a Python literal; every other value as it is."""
    if not isinstance(value, str) or not value.lstrip().startswith(("[", "{")):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        pass
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # unknown escapes, such as '\d', are no concern of the reader
            return ast.literal_eval(value.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return value
