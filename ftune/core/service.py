"""What a recipe says of a service on the network: its address, and the variable that holds its key."""

import os
from typing import Annotated, TypeAlias
from urllib.parse import urlsplit

from pydantic import AfterValidator


def _is_variable(value: str) -> str:
    if not value.isidentifier():
        raise ValueError("is the name of an environment variable, such as OPENAI_API_KEY, and not the key itself")
    return value


KeyVariable: TypeAlias = Annotated[str, AfterValidator(_is_variable)]
"""The name of the environment variable that holds a key."""


def check_url(value: str, example: str) -> str:
    """The address of a service as it is. Raises ValueError for what is none, or holds a password.

    The message does not repeat the address: who mistypes one may have put a password into it.
    """
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname or not value.isascii() or parts.port == 0:
        raise ValueError(f"give an address such as {example}")
    if parts.username or parts.password:
        raise ValueError("holds a password, which would be written into logs; name a variable that holds a key instead")
    return value


def key_in(variable: str | None) -> str:
    """The key in an environment variable, without blanks around it; empty without a variable."""
    return os.environ.get(variable, "").strip() if variable else ""


def key_problem(variable: str | None) -> str:
    """What is wrong with the key; empty where nothing is.

    Says neither the key nor the variable's name, which may be a key that was given by mistake.
    """
    if variable is None:
        return ""
    key = key_in(variable)
    if not key:
        return "the environment variable that it names is not set; set it to the key"
    if not (key.isascii() and key.isprintable()):  # http.client would refuse it with the key in its message
        return "the value of the environment variable that it names is no key: it has other characters than ASCII"
    return ""
