"""The `backend` section of a recipe: any backend, `auto` where it does not say which."""

from typing import Annotated, Any

from pydantic import BeforeValidator

from ftune.backends.base import Backend
from ftune.core.variants import union_of


def _auto(value: object) -> object:
    return {"type": "auto", **value} if isinstance(value, dict) else value


AnyBackend: Any = Annotated[union_of(Backend), BeforeValidator(_auto)]
