"""Write the tables of `docs/recipes.md` and `docs/methods.md` from the recipe sections.

Run `python scripts/make_reference.py`; a test tells when they are no longer current.
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from pydantic_core import PydanticUndefined, PydanticUndefinedType

from ftune.core.section import Section, field_docs
from ftune.core.variants import class_of, variants_of
from ftune.peft.base import FEATURES, PeftMethod
from ftune.recipes.eval import EvalRecipe
from ftune.recipes.merge import MergeRecipe
from ftune.recipes.ppo import PpoRecipe
from ftune.recipes.rm import RmRecipe
from ftune.recipes.sft import SftRecipe

DOCS = Path(__file__).parents[1] / "docs"
BEGIN_MATRIX, END_MATRIX = "<!-- methods: made by scripts/make_reference.py -->", "<!-- end of methods -->"
HEADER = ("| key | default | meaning |", "| :-- | :-- | :-- |")
AS_ELSEWHERE = ("data.train.format", "gold")
"""Keys whose variants are those of another one: of `data.format` and of `rewards`."""
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
        meaning = field_docs(section).get(name, "").replace("|", "\\|")
        if key in AS_ELSEWHERE:
            yield f"| `{key}` |  | {meaning} |"
        elif inner and is_variant(inner[0]):
            chosen = "" if default is None else f"`{getattr(default, 'type', default)}`"
            yield f"| `{key}` | {chosen} | {meaning} |"
            common = shared_rows(inner, f"{key}.")
            yield from common
            for variant in inner:
                kinds = get_args(variant.model_fields["type"].annotation)
                if len(kinds) > 1:
                    yield from summaries(variant, key, kinds)
                kind = str(kinds[0])
                own = [row for row in rows(variant, f"{key}.") if row not in common]
                if len(variant.model_fields) > 1:
                    yield from (row.replace("| `", f"| {kind}: `", 1) for row in own)
        elif inner and isinstance(default, Section | PydanticUndefinedType) and name != "train":
            yield from rows(inner[0], f"{key}.")
        else:  # a list, or a section that may be left out: itself, then what it holds
            yield f"| `{key}` | {shown(default)} | {meaning} |"
            known = next((found for found in inner if found.__name__ != "Source"), None)
            yield from rows(known, f"{key}.") if known else ()


def shared_rows(variants: list[type[Section]], prefix: str) -> list[str]:
    """The rows of keys that every one of several variants has, with the same default and meaning."""
    each = [list(rows(variant, prefix)) for variant in variants]
    return [row for row in each[0] if len(each) > 1 and all(row in others for others in each)]


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
    """The whole reference: all keys of `sft`, and of the other commands those that are not as above."""
    known = list(rows(SftRecipe, ""))
    lines = [BEGIN, "## `ftune sft`", "", *HEADER, *known]
    for command, recipe in (("rm", RmRecipe), ("ppo", PpoRecipe), ("merge", MergeRecipe), ("eval", EvalRecipe)):
        own = [row for row in rows(recipe, "") if row not in known and not row.startswith("| `type`")]
        lines += [
            "",
            f"## `ftune {command}`",
            "",
            "What it has beyond the keys above, or understands otherwise.",
            "",
            *HEADER,
            *own,
        ]
        known += own
    return "\n".join([*lines, END])


def matrix() -> str:
    """What each PEFT method goes together with, and why not where it does not."""
    columns = {feature: words for feature, words in FEATURES.items() if feature != "unquantized"}
    lines = ["| method | paper | " + " | ".join(columns.values()) + " |", "| :-- | :-- |" + " :-: |" * len(columns)]
    reasons: dict[str, list[str]] = {}
    for name, section in variants_of(PeftMethod).items():
        method = section.model_construct(type=name)
        limits = method.limits()
        if all(feature in limits for feature in FEATURES):  # it cannot be trained at all
            reasons.setdefault(next(iter(limits.values())), []).append(f"`{name}`")
            continue
        cells = ["-" if feature in limits else "yes" for feature in columns]
        lines.append(f"| `{name}` | {paper(section)} | {' | '.join(cells)} |")
        for feature, reason in limits.items():
            reasons.setdefault(reason, []).append(f"`{name}` with {FEATURES[feature]}")
    lines += ["", "Why not, and what to do instead:", ""]
    lines += [f"- {', '.join(cases)}: {reason}" for reason, cases in reasons.items()]
    return "\n".join([BEGIN_MATRIX, *lines, END_MATRIX])


def paper(section: type[Section]) -> str:
    """The first paper that the docstring of a method's module names."""
    found = re.search(r"arXiv:(\d+\.\d+)", sys.modules[section.__module__].__doc__ or "")
    return f"[{found[1]}](https://arxiv.org/abs/{found[1]})" if found else ""


def updated(text: str, begin: str, end: str, made: str) -> str:
    """A page with what is made between two marks."""
    before, _, rest = text.partition(begin)
    return before + made + rest.partition(end)[2]


def pages() -> dict[Path, str]:
    """The pages with tables that are made, as they should be now."""
    made = {"recipes.md": (BEGIN, END, reference()), "methods.md": (BEGIN_MATRIX, END_MATRIX, matrix())}
    return {DOCS / name: updated((DOCS / name).read_text(encoding="utf-8"), *parts) for name, parts in made.items()}


if __name__ == "__main__":
    for page, text in pages().items():
        page.write_text(text, encoding="utf-8")
        sys.stderr.write(f"{page.name} is current\n")
