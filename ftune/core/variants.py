"""Discovery of variants: one file a variant, no registry.

A package (`ftune.peft`, `ftune.data.formats`, `ftune.backends`) holds one module a variant; each module defines a
subclass of the package's base class with a `type: Literal["name"]` field (several names where one class serves all of
them). This is the only magic in ftune.
"""

from functools import cache, partial, reduce
from importlib import import_module
from importlib.util import find_spec
from operator import or_
from pkgutil import iter_modules
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import BeforeValidator, Field

from ftune.core.section import Section

S = TypeVar("S", bound=Section)


@cache
def variants_of(base: type[S]) -> dict[str, type[S]]:
    """All variants of `base` by the name in their `type` field, from the modules beside the one that defines it."""
    package = base.__module__.rpartition(".")[0]
    for module in iter_modules(import_module(package).__path__, f"{package}."):
        if not module.ispkg:  # a variant is a file; a folder is what some of them are built from, heavy imports and all
            import_module(module.name)
    found = {name: cls for cls in _subclasses(base) for name in get_args(cls.model_fields["type"].annotation)}
    return dict(sorted(found.items()))


def variant_called(base: type[S], name: str) -> type[S] | None:
    """The variant of that name, from the module of that name where there is one, so that others need not be read."""
    package = base.__module__.rpartition(".")[0]
    if name.isidentifier() and find_spec(f"{package}.{name}"):
        import_module(f"{package}.{name}")
        for cls in _subclasses(base):
            if name in get_args(cls.model_fields["type"].annotation):
                return cls
    return variants_of(base).get(name)


def class_of(variant: type[S], name: str) -> type[S]:
    """The class behind one name of a variant: the variant, or the one that its `of_type` makes with keys of its own."""
    of_type = getattr(variant, "of_type", None)
    made: type[S] = of_type(name) if of_type else variant
    return made


def union_of(base: type[Section], default: str | None = None) -> Any:
    """The discriminated union of all variants of `base`; a bare name stands for `{type: name}`.

    A section that does not say its `type` is of type `default`, where there is one.
    """
    variants = variants_of(base)
    union: Any = reduce(or_, dict.fromkeys(variants.values()))
    accepted = union | Literal[tuple(variants)]
    discriminator = [Field(discriminator="type")] if len(variants) > 1 else []
    return Annotated[union, *discriminator, BeforeValidator(partial(_typed, default), json_schema_input_type=accepted)]


def _typed(default: str | None, value: object) -> object:
    if isinstance(value, str):
        return {"type": value}
    return {"type": default, **value} if default and isinstance(value, dict) else value


def _subclasses(base: type[S]) -> list[type[S]]:
    direct = base.__subclasses__()
    named = [cls for cls in direct if "type" in cls.model_fields]
    files = [cls for cls in direct if not hasattr(cls, "of_type")]  # else made for one name of a variant that is here
    return named + [deeper for cls in files for deeper in _subclasses(cls)]
