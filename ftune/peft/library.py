"""The methods that peft brings along and ftune adds nothing to, each with the keys of its own config class.

Their keys come from `library.json`, which `scripts/make_library.py` writes from the installed peft: importing peft
takes seconds, and a recipe is checked before that. Only the section of the method that a recipe names is built.
"""

import json
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, TypeAlias

from pydantic import (
    Field,
    GetJsonSchemaHandler,
    ModelWrapValidatorHandler,
    ValidationInfo,
    create_model,
    model_serializer,
    model_validator,
)
from pydantic_core import CoreSchema

from ftune.core.section import Location
from ftune.peft.base import FEATURES, NOTHING, Feature, Material, PeftMethod
from ftune.peft.library_facts import LEARNING_RATES, LIMITS, PACKAGES, REFUSED, impossible
from ftune.peft.targets import Targets
from ftune.plan.adapter import Adapter
from ftune.plan.shape import ModelShape

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

TABLE = Path(__file__).with_suffix(".json")

_TAKES: dict[str, Any] = {
    "int": int,
    "float": float,
    "bool": bool,
    "str": str,
    "null": None,
    "list[int]": list[int],
    "list[str]": list[str],
    "dict[str, int]": dict[str, int],
    "dict[str, float]": dict[str, float],
    "dict[str, str]": dict[str, str],
    "targets": Targets,
    "layers": Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)],
}
"""The types that the table has names for."""


MethodClass: TypeAlias = "type[LibraryMethod]"


class LibraryMethod(PeftMethod):
    """A method of peft with peft's own keys."""

    config_class: ClassVar[str] = ""
    """The name of the method's config class in peft."""

    # fmt: off
    type: Literal[
        "adamss", "adaption_prompt", "beft", "boft", "c3a", "cartridge", "cpt", "deft", "delora", "fourierft", "frod",
        "glora", "gralora", "hira", "hra", "lily", "ln_tuning", "loha", "lokr", "miss", "multitask_prompt_tuning",
        "oft", "osf", "peanut", "poly", "psoft", "pvera", "randlora", "road", "shadow", "shira", "supertuning",
        "tinylora", "trainable_tokens", "unilora", "vblora", "vera", "waveft", "xlora",
    ]
    # fmt: on
    """A method of peft."""

    @classmethod
    def of_type(cls, name: str) -> "MethodClass":
        """The section of one method, with its keys."""
        return _section(name) if name in methods() else cls

    @model_validator(mode="wrap")
    @classmethod
    def _has_the_keys_of_its_type(
        cls, value: object, handler: ModelWrapValidatorHandler[Self], info: ValidationInfo
    ) -> Self:
        if cls is not LibraryMethod or not isinstance(value, dict):
            return handler(value)
        name = value.get("type")
        if name in REFUSED:
            raise ValueError(f"type: {REFUSED[name]}")
        if name not in methods():
            return handler(value)
        made: Self = cls.of_type(name).model_validate(value, context=info.context)  # type: ignore[assignment]
        return made

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if message := next(impossible(self.type, self._keys()), ""):
            raise ValueError(message)
        return self

    @model_serializer(mode="plain")
    def _with_all_keys(self) -> dict[str, object]:
        return {"type": self.type, **self._keys()}

    def _keys(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in type(self).model_fields if name != "type"}

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """One definition a method."""
        if cls is not LibraryMethod:
            return dict(handler(core_schema))
        sections = [cls.of_type(name) for name in methods()]
        for section in sections:
            section.model_rebuild()
        return {"oneOf": [handler(section.__pydantic_core_schema__) for section in sections]}

    def wrap(self, model: "PreTrainedModel", material: Material = NOTHING) -> "PeftModel":
        """The model as a PEFT model with this method on it. Raises ModelError in the words of the recipe."""
        from ftune.peft.library_wrap import wrapped

        return wrapped(model, self.type, self.config_class, self._keys())

    def planned(self, shape: ModelShape) -> Adapter:
        """What peft 0.21 makes trainable. Raises ModelError where `wrap` would."""
        from ftune.peft.library_planned import planned

        return planned(shape, self.type, self._keys())

    def dense(self, shape: ModelShape) -> int:
        """Whole weights of the methods that compute with them, once each."""
        from ftune.peft.library_planned import dense

        return dense(shape, self.type, self._keys())

    def faults(self) -> Iterator[tuple[Location, str]]:
        """A package that the method needs."""
        module, package = PACKAGES.get(self.type, ("json", ""))
        if find_spec(module) is None:
            yield ("type",), f"{self.type} needs the {package} package; pip install {package}"

    def limits(self) -> dict[Feature, str]:
        """What the method does not go with."""
        if self.type in REFUSED:
            return dict.fromkeys(FEATURES, REFUSED[self.type])
        return LIMITS.get(self.type, {})


@cache
def methods() -> dict[str, dict[str, Any]]:
    """The table: by `type` the config class and the keys with what each takes, its default, bounds and help."""
    found: dict[str, dict[str, Any]] = json.loads(TABLE.read_text(encoding="utf-8"))["types"]
    return found


@cache
def _section(name: str) -> MethodClass:
    fields: dict[str, Any] = {"type": (Literal[name], name)}
    fields |= {key: (_annotation(about), _default(about)) for key, about in methods()[name]["keys"].items()}
    config = str(methods()[name]["config"])
    section = create_model(
        config.removesuffix("Config"),
        __base__=LibraryMethod,
        __doc__=f"peft's {config}.",
        __module__=__name__,
        **fields,
    )
    section.config_class = config
    section.default_learning_rate = LEARNING_RATES.get(name, PeftMethod.default_learning_rate)
    return section


def _annotation(about: dict[str, Any]) -> Any:
    found: Any = None
    for kind in about["takes"]:
        one = Literal[tuple(kind["choices"])] if isinstance(kind, dict) else _TAKES[kind]
        if kind in ("int", "float"):
            one = Annotated[one, Field(**about.get("bounds", {}))]
        found = one if found is None else found | one
    return found


def _default(about: dict[str, Any]) -> Any:
    default = about.get("default", ...)
    if default == {}:
        return Field(default_factory=dict, description=about["help"])
    return Field(default, description=about["help"])
