"""From a YAML file and overrides to a validated recipe, or to every fault in it at once."""

import json
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from ftune.core.errors import RecipeError
from ftune.core.overrides import apply_overrides, forget_below, opened
from ftune.core.paths import expanded
from ftune.core.section import Location, Section
from ftune.core.suggest import did_you_mean
from ftune.core.variants import variant_called, variants_of
from ftune.core.yaml import Document, Fault, Mark, dotted, parse_yaml
from ftune.recipes.base import Recipe
from ftune.recipes.explain import explain

DEFAULT = Mark("default")


@dataclass(frozen=True, slots=True)
class Loaded:
    """A validated recipe, its text as given, and where each of its values comes from."""

    recipe: Recipe
    path: Path
    text: str
    overrides: tuple[str, ...]
    marks: dict[Location, Mark]

    def origin(self, place: Location) -> str:
        """Where a value was set: `file:line`, `<override n>` or `default`."""
        while place not in self.marks and len(place) > 1:
            place = place[:-1]
            if any(known[: len(place)] == place and len(known) > len(place) for known in self.marks):
                return DEFAULT.source  # written as a mapping that does not have the key
        mark = self.marks.get(place, DEFAULT)
        return f"{mark.source}:{mark.line}" if mark.line else mark.source


def load_recipe(
    command: str | None,
    path: Path,
    overrides: Sequence[str] = (),
    *,
    text: str | None = None,
    elsewhere: Collection[str] = (),
) -> Loaded:
    """Load the recipe of a command from `path`, or from `text` that stands for it, of which no positions are told.

    Without a command the recipe's own `type` says it, or else it is `sft`. `elsewhere` are sections whose devices or
    files are on other machines, so that it is no fault where this one has none.

    Precedence: defaults < `extends` from left to right < the file < overrides. Raises RecipeError with one line a
    fault: `file:line:column: key: what is wrong; what to do`.
    """
    is_file = text is None
    text = _read(path) if text is None else text
    document = _compose(path, text, ())
    if not is_file:
        document.marks = dict.fromkeys(document.marks, Mark(str(path)))
    apply_overrides(document, overrides)
    if document.partial:
        raise _error(document.faults)
    value = document.value if document.value is not None else {}
    if not isinstance(value, dict):
        document.faults.append(Fault(Mark(str(path), 1, 1), "a recipe is a mapping of keys to values"))
        raise _error(document.faults)
    if ("extends",) in document.marks and not (mark := document.marks[("extends",)]).line and is_file:
        document.faults.append(Fault(mark, "extends: is followed before overrides are; write it into the recipe"))
    cls = _class(_command(command, value, document))
    if "output_dir" in cls.model_fields:
        given = value.setdefault("output_dir", f"runs/{path.stem}")
        if isinstance(given, str) and given.startswith("~"):  # a shell does that only for words of its own
            value["output_dir"] = str(expanded(given))
    context: dict[str, object] = {"folders": [Path(), *_folders(document)]}
    try:
        recipe = cls.model_validate(value, context=context)
    except ValidationError as error:
        explained = [*explain(cls, value, error), *_faults_of_whole_sections(cls, value, context)]
        faults = [Fault(_mark(document, place), message) for place, message in explained]
        raise _error(document.faults + faults) from None
    here = [(place, message) for place, message in recipe.all_faults() if place[0] not in elsewhere]
    faults = [Fault(_mark(document, place), f"{dotted(place)}: {message}") for place, message in here]
    if faults or document.faults:
        raise _error(document.faults + faults)
    return Loaded(recipe, path, text, tuple(overrides), document.marks)


def load_resolved(command: str, path: Path) -> Recipe:
    """The recipe that a run has written down with all its values. Raises RecipeError when it cannot be used."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        recipe: Recipe = variants_of(Recipe)[command].model_validate(value)
    except (OSError, ValueError) as error:
        raise RecipeError(f"{path}: not a resolved recipe of this ftune: {str(error).splitlines()[0]}") from error
    return recipe


def recipe_schema(command: str) -> dict[str, object]:
    """The JSON Schema (draft 2020-12) of a command's recipes, for editors and tools."""
    commands = variants_of(Recipe)
    if command not in commands:
        raise RecipeError(f"no command '{command}' has recipes{did_you_mean(command, commands)}")
    schema = commands[command].model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **json.loads(json.dumps(schema))}


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        near = [str(other) for other in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
        hint = did_you_mean(str(path), near) or "; 'ftune recipes' lists the ones that come with ftune"
        raise RecipeError(f"{path}: no such recipe{hint}") from None
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: not UTF-8 (byte {error.start}); save it as UTF-8") from None
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read: {error.strerror}; give a YAML file") from None


def _compose(path: Path, text: str, seen: tuple[Path, ...]) -> Document:
    """The file's document on top of the documents it extends."""
    document = parse_yaml(text, str(path))
    if not isinstance(document.value, dict) or "extends" not in document.value:
        return document
    bases = document.value["extends"]
    merged = Document({}, {}, document.faults)
    for base in bases if isinstance(bases, list) else [bases]:
        if not isinstance(base, str):
            continue  # the schema reports it
        file = (path.parent / base).resolve()
        fault = ""
        if file == path.resolve() or file in seen:
            fault = f"'{base}' leads back to this file"
        elif not file.is_file():
            fault = f"no such file '{base}' beside {path}"
        else:
            shown = path.parent / base
            below = _compose(shown, _read(shown), (*seen, path.resolve()))
            merged.faults += below.faults
            merged.partial |= below.partial
            fault = "" if below.partial else _cannot_extend(document, merged, below, base)
            if not fault and below.value is not None:
                _merge(merged, below)
        if fault:
            document.faults.append(Fault(document.marks[("extends",)], f"extends: {fault}"))
            merged.partial = True
    _merge(merged, document)
    return merged


def _cannot_extend(document: Document, merged: Document, below: Document, base: str) -> str:
    """Why a file cannot stand below a recipe and what it has been merged with; empty where it can."""
    if not isinstance(below.value, dict):
        return "" if below.value is None else f"'{base}' is no mapping of keys to values"
    for above in (document.value, merged.value):
        kinds = [value.get("type") for value in (above, below.value) if isinstance(value, dict)]
        if None not in kinds and kinds[0] != kinds[1]:
            return f"'{base}' is a recipe for '{kinds[1]}', and '{kinds[0]}' is wanted; take the 'type' out of one"
    return ""


def _merge(into: Document, other: Document) -> None:
    into.value = _merged(into, other, (), into.value, other.value)


def _merged(into: Document, other: Document, place: Location, old: object, new: object) -> object:
    """`new` over `old`: maps key by key unless their `type` differs, everything else replaced.

    A bare name is the `type` of what it meets, as `peft: ia3` is below `peft: {target_modules: [k_proj]}`; where rows
    are named by their path or source, it is the name of other rows.
    """
    if isinstance(new, dict) and not {"path", "source"} & new.keys():
        old = opened(into, place, old)
    elif isinstance(old, dict) and old.get("type") == new:
        new = {"type": new}
    if (
        isinstance(old, dict)
        and isinstance(new, dict)
        and old.get("type", new.get("type")) == new.get("type", old.get("type"))
    ):
        result = dict(old)
        for key, value in new.items():
            result[key] = _merged(into, other, (*place, key), old.get(key), value)
        into.marks[place] = other.marks.get(place, DEFAULT)
        return result
    forget_below(into, place)
    into.marks.update({known: mark for known, mark in other.marks.items() if known[: len(place)] == place})
    return new


def _command(command: str | None, value: dict[str, object], document: Document) -> str:
    """The command whose recipe this is. Raises RecipeError where it is not the one that was asked for."""
    found = value.get("type")
    known = isinstance(found, str) and (found == command or _class_or_none(found) is not None)
    if command is None:
        command = str(found) if known else "sft"
    if found is None:
        value["type"] = command
    elif found != command:
        hint = f"run 'ftune {found} ...'" if known else f"write 'type: {command}'"
        fault = Fault(_mark(document, ("type",)), f"type: this is a recipe for '{found}', not for '{command}'; {hint}")
        raise _error([*document.faults, fault])
    return command


def _class(command: str) -> type[Recipe]:
    """The recipes of a command; the sections of the other commands stay unread, which is half of the time to here."""
    cls = _class_or_none(command)
    if cls is None:
        raise KeyError(command)
    return cls


def _class_or_none(command: str) -> type[Recipe] | None:
    return variant_called(Recipe, command)  # type: ignore[type-abstract]


def _faults_of_whole_sections(
    cls: type[Recipe], value: dict[str, object], context: dict[str, object]
) -> Iterator[tuple[Location, str]]:
    """The machine's faults of the sections that are valid in themselves, when the recipe as a whole is not."""
    for name, field in cls.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section) and name in value:
            with suppress(ValidationError):
                section = field.annotation.model_validate(value[name], context=context)
                for place, message in section.all_faults():
                    yield (name, *place), f"{dotted((name, *place))}: {message}"


def _folders(document: Document) -> list[Path]:
    """The folders of the files that the recipe was read from."""
    sources = {mark.source for mark in document.marks.values() if mark.line}
    return sorted({Path(source).parent for source in sources})


def _mark(document: Document, place: Location) -> Mark:
    while place not in document.marks and place:
        place = place[:-1]
    return document.marks.get(place, Mark("<recipe>"))


def _error(faults: list[Fault]) -> RecipeError:
    ordered = sorted(faults, key=lambda fault: (fault.mark.source, fault.mark.line, fault.mark.column))
    return RecipeError("\n".join(dict.fromkeys(str(fault) for fault in ordered)))
