"""Write the recipe reference of the README from the recipe sections: `python scripts/make_reference.py`."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from pydantic_core import PydanticUndefined, PydanticUndefinedType

from ftune.core.section import Section, field_docs
from ftune.core.variants import class_of
from ftune.recipes.sft import SftRecipe

README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- reference: made by scripts/make_reference.py -->", "<!-- end of reference -->"


def sections_in(annotation: object) -> list[type[Section]]:
    """The sections that a field may hold."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [found for inner in get_args(annotation) for found in sections_in(inner)]


def is_variant(section: type[Section]) -> bool:
    """Whether a section is one of several, told apart by its `type`."""
    return "type" in section.model_fields and len(get_args(section.model_fields["type"].annotation)) == 1


def rows(section: type[Section], prefix: str) -> Iterator[str]:
    """A table row for each key of a section and of the sections in it."""
    for name, field in section.model_fields.items():
        if name == "type" and prefix and is_variant(section):
            continue
        key = f"{prefix}{name}"
        inner = sections_in(field.annotation)
        default = field.get_default(call_default_factory=True)
        meaning = field_docs(section).get(name, "")
        if prefix == "data.train." and name == "format":  # the variants are those of data.format
            yield f"| `{key}` |  | {meaning} |"
        elif inner and is_variant(inner[0]):
            chosen = f"`{getattr(default, 'type', '')}`" if default is not None else "`auto`"
            yield f"| `{key}` | {chosen} | {meaning} |"
            for variant in inner:
                kinds = get_args(variant.model_fields["type"].annotation)
                if len(kinds) > 1:
                    yield from summaries(variant, key, kinds)
                kind = str(kinds[0])
                if len(variant.model_fields) > 1:
                    yield from (row.replace("| `", f"| {kind}: `", 1) for row in rows(variant, f"{key}."))
        elif inner and isinstance(default, Section | PydanticUndefinedType) and name != "train":
            yield from rows(inner[0], f"{key}.")
        else:  # a list, or a section that may be left out: itself, then what it holds
            yield f"| `{key}` | {shown(default)} | {meaning} |"
            known = next((found for found in inner if found.__name__ != "Source"), None)
            yield from rows(known, f"{key}.") if known else ()


def summaries(variant: type[Section], key: str, kinds: tuple[str, ...]) -> Iterator[str]:
    """One row a name for a variant that has many, with the keys of each: the schema has their meanings."""
    for kind in kinds:
        fields = {name: field for name, field in class_of(variant, kind).model_fields.items() if name != "type"}
        defaults = (field.get_default(call_default_factory=True) for field in fields.values())
        keys = ", ".join(f"{name}: {shown(value).strip('`')}" for name, value in zip(fields, defaults, strict=True))
        if keys:
            yield f"| {kind}: `{key}.*` |  | {keys} |"


def shown(default: object) -> str:
    """A default as it would be written in a recipe."""
    if default is PydanticUndefined:
        return "required"
    return "" if default is None else f"`{json.dumps(default).replace(chr(34), '')}`"


def reference() -> str:
    """The whole reference."""
    return "\n".join([BEGIN, "| key | default | meaning |", "| :-- | :-- | :-- |", *rows(SftRecipe, ""), END])


def updated(text: str) -> str:
    """The README with the current reference."""
    before, _, rest = text.partition(BEGIN)
    return before + reference() + rest.partition(END)[2]


if __name__ == "__main__":
    README.write_text(updated(README.read_text(encoding="utf-8")), encoding="utf-8")
    sys.stderr.write(f"{README.name} is current\n")
