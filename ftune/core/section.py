"""The base of everything a recipe is made of."""

import ast
import inspect
import textwrap
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import pairwise
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler
from pydantic_core import CoreSchema

Location = tuple[str | int, ...]
"""Where a value sits in a recipe: keys and list indexes from the root."""


class Section(BaseModel):
    """A strict, frozen group of recipe keys.

    YAML keys, attribute names, override paths and documentation are one and the same name. A field's docstring is its
    help text in the JSON Schema and in `docs/recipes.md`.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        validate_default=True,
        defer_build=True,  # the root builds all in one go: a third of the time before the first message
        protected_namespaces=(),
    )

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """The JSON Schema with each field's docstring as its description."""
        schema = handler(core_schema)
        properties = handler.resolve_ref_schema(schema).get("properties", {})
        for name, text in field_docs(cls).items():
            if name in properties:
                properties[name]["description"] = text
        return schema

    def faults(self) -> Iterator[tuple[Location, str]]:
        """What is wrong with these values on this machine: missing files, packages or devices.

        Yields the place relative to this section and the message. Rules that need nothing but the recipe itself are
        validators instead. Runs before anything heavy is imported, so it must not import anything heavy either.
        """
        yield from ()

    def all_faults(self) -> Iterator[tuple[Location, str]]:
        """The faults of this section and of all sections below it."""
        yield from self.faults()
        for name in type(self).model_fields:
            for place, child in _sections((name,), getattr(self, name)):
                for inner, message in child.all_faults():
                    yield (*place, *inner), message


@cache
def field_docs(cls: type[Section]) -> Mapping[str, str]:
    """The docstring under each field of a section and of its bases, joined to one line; a variant's own for `type`.

    pydantic can collect these too (`use_attribute_docstrings`), but does so at import, where it costs a quarter of the
    time of every command; here only the schema pays.
    """
    docs: dict[str, str] = {}
    for base in reversed([base for base in cls.__mro__ if issubclass(base, Section)]):
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        statements = body.body if isinstance(body, ast.ClassDef) else []
        for field, text in pairwise(statements):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr):
                docs[field.target.id] = " ".join(str(ast.literal_eval(text.value)).split())
    docs.setdefault("type", (cls.__doc__ or "").partition("\n")[0])
    return docs


def _sections(place: Location, value: object) -> Iterator[tuple[Location, Section]]:
    if isinstance(value, Section):
        yield place, value
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _sections((*place, index), item)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _sections((*place, key), item)
