"""The `backend` section of a recipe: any backend, `auto` where it does not say which."""

from typing import Any

from ftune.backends.base import Backend
from ftune.core.variants import union_of

AnyBackend: Any = union_of(Backend, default="auto")
