"""The base of everything a recipe is made of."""

from collections.abc import Iterator
from typing import ClassVar

from pydantic import BaseModel, ConfigDict

Location = tuple[str | int, ...]
"""Where a value sits in a recipe: keys and list indexes from the root."""


class Section(BaseModel):
    """A strict, frozen group of recipe keys.

    YAML keys, attribute names, override paths and documentation are one and the same name. A field's docstring is its
    help text in the JSON Schema and in the README.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        validate_default=True,
        protected_namespaces=(),
    )

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


def _sections(place: Location, value: object) -> Iterator[tuple[Location, Section]]:
    if isinstance(value, Section):
        yield place, value
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _sections((*place, index), item)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _sections((*place, key), item)
