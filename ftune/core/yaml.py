"""YAML as recipes use it: every value with its line and column, YAML 1.2 scalars, and limits.

PyYAML's event stream is the parser; the tree is built here because its own constructor reads `1e-4` as text, `12:30`
as 45045, `on` as true, keeps the last of two equal keys and expands alias bombs. Only the events are used, so no
constructor and no Python tag is ever run.
"""

import math
import re
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, field

import yaml

from ftune.core.section import Location

MAX_BYTES = 2**20
MAX_DEPTH = 32
MAX_NODES = 20_000

_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_CONSTANTS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False} | dict.fromkeys(
    ("", "~", "null", "Null", "NULL")
)
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in a source: a file or `<override 1>`, and the line and column from 1 where there are any."""

    source: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.source}:{self.line}:{self.column}" if self.line else self.source


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong, and where."""

    mark: Mark
    message: str

    def __str__(self) -> str:
        return f"{self.mark}: {self.message}"


@dataclass(slots=True)
class Document:
    """A parsed YAML text: plain values, the mark of each, and the faults met on the way."""

    value: object = None
    marks: dict[Location, Mark] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    partial: bool = False
    """Whether something of it could not be read at all, so that what it lacks says nothing."""


def parse_yaml(text: str, source: str) -> Document:
    """Parse one YAML document.

    A syntax error ends the parse; duplicate keys and unusable values are collected and the parse goes on. Marks of keys
    point at the key for a mapping's entries, so that an unknown key is shown where it is written.
    """
    document = Document(partial=True)
    if len(text.encode(errors="surrogatepass")) > MAX_BYTES:
        document.faults.append(Fault(Mark(source), f"larger than {MAX_BYTES // 1024} KiB; a recipe holds no data"))
        return document
    builder = _Builder(source, document)
    try:
        document.value = builder.document(yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))
        document.partial = False
    except yaml.MarkedYAMLError as error:
        document.faults.append(_syntax_fault(error, source, text))
    except yaml.reader.ReaderError as error:
        found = text[error.position] if error.position < len(text) else ""
        line = text.count("\n", 0, error.position) + 1
        document.faults.append(Fault(Mark(source, line, 1), f"character {found!r} is not allowed in YAML; remove it"))
    except _TooMuchError as error:
        document.faults.append(Fault(error.mark, str(error)))
    return document


def scalar(text: str) -> object:
    """A plain (unquoted) YAML scalar after the YAML 1.2 core rules: null, true, false, integer, float, else text.

    `yes`, `no`, `on`, `off`, `010`, `0x10`, `1_000` and `12:30` stay text. Raises ValueError for .inf and .nan.
    """
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _INT.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        number = float(text)
        if math.isinf(number):
            raise ValueError(f"{text} is too large for a number")
        return number
    if _NOT_FINITE.fullmatch(text):
        raise ValueError(f"{text} is not a finite number")
    return text


class _TooMuchError(Exception):
    def __init__(self, mark: Mark, message: str) -> None:
        super().__init__(message)
        self.mark = mark


class _Builder:
    def __init__(self, source: str, document: Document) -> None:
        self.source = source
        self.out = document
        self.anchors: dict[str, tuple[object, int]] = {}
        self.nodes = 0

    def document(self, events: Iterator[yaml.Event]) -> object:
        """The first document's value; a second document is a fault."""
        value: object = None
        documents = 0
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    self.fault(event, "a second YAML document ('---'); a recipe is one document")
                    break
            elif isinstance(event, yaml.NodeEvent):
                value = self.node(event, events, ())
        return value

    def node(self, event: yaml.Event, events: Iterator[yaml.Event], place: Location) -> object:
        """Build the node that begins with `event`, reading on from `events`."""
        if len(place) > MAX_DEPTH:
            raise _TooMuchError(self.mark(event), f"nested deeper than {MAX_DEPTH} levels")
        self.count(event, 1)
        self.out.marks.setdefault(place, self.mark(event))
        if isinstance(event, yaml.AliasEvent):
            return self.alias(event)
        before = self.nodes
        value: object
        if isinstance(event, yaml.MappingStartEvent):
            value = self.mapping(events, place)
        elif isinstance(event, yaml.SequenceStartEvent):
            value = self.sequence(events, place)
        elif isinstance(event, yaml.ScalarEvent):
            value = self.scalar(event)
        else:
            raise TypeError(f"not the beginning of a node: {event}")
        if event.tag is not None and event.tag != "!":
            self.fault(event, f"tag '{event.tag}' is not allowed; write the plain value")
        if event.anchor is not None:
            self.anchors[event.anchor] = (value, self.nodes - before + 1)
        return value

    def mapping(self, events: Iterator[yaml.Event], place: Location) -> dict[str, object]:
        result: dict[str, object] = {}
        while not isinstance(key_event := next(events), yaml.MappingEndEvent):
            key = self.key(key_event, events, place)
            if key in result:
                first = self.out.marks[(*place, key)]
                self.fault(key_event, f"{dotted((*place, key))}: key given twice (first on line {first.line})")
            else:
                self.out.marks[(*place, key)] = self.mark(key_event)
            result[key] = self.node(next(events), events, (*place, key))
        return result

    def key(self, event: yaml.Event, events: Iterator[yaml.Event], place: Location) -> str:
        if not isinstance(event, yaml.ScalarEvent):
            self.fault(event, "a key must be plain text")
            self.node(event, events, (*place, "?"))
            return "?"
        if event.value == "<<" and not event.style:
            self.fault(event, "merge keys ('<<') are not supported; use 'extends: other.yaml'")
        return str(event.value)

    def sequence(self, events: Iterator[yaml.Event], place: Location) -> list[object]:
        result: list[object] = []
        while not isinstance(event := next(events), yaml.SequenceEndEvent):
            result.append(self.node(event, events, (*place, len(result))))
        return result

    def scalar(self, event: yaml.ScalarEvent) -> object:
        if "\0" in event.value:  # in quotes, as `\0`
            self.fault(event, "a NUL character is in no text or path; remove it")
        if event.style:
            return event.value
        try:
            return scalar(event.value)
        except ValueError as error:
            self.fault(event, str(error))
            return None

    def alias(self, event: yaml.AliasEvent) -> object:
        if event.anchor not in self.anchors:
            self.fault(event, f"alias '*{event.anchor}' has no anchor before it")
            return None
        value, size = self.anchors[event.anchor]
        self.count(event, size)
        return deepcopy(value)  # an override of one of them is none of the other

    def count(self, event: yaml.Event, nodes: int) -> None:
        self.nodes += nodes
        if self.nodes > MAX_NODES:
            raise _TooMuchError(self.mark(event), f"more than {MAX_NODES} values after aliases are expanded")

    def mark(self, event: yaml.Event) -> Mark:
        at = event.start_mark
        return Mark(self.source, at.line + 1, at.column + 1) if at else Mark(self.source)

    def fault(self, event: yaml.Event, message: str) -> None:
        self.out.faults.append(Fault(self.mark(event), message))


def dotted(place: Location) -> str:
    """The place as people write it: `data.train[0].path`."""
    text = ""
    for part in place:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def _syntax_fault(error: yaml.MarkedYAMLError, source: str, text: str) -> Fault:
    mark = error.problem_mark or error.context_mark
    problem = error.problem or error.context or "not valid YAML"
    if mark is None:
        return Fault(Mark(source), problem)
    lines = text.splitlines()
    line = lines[mark.line].rstrip() if mark.line < len(lines) else ""
    hint = "; indent with blanks, not tabs" if "\t" in line or "'\\t'" in problem else ""
    shown = f"\n    {line}\n    {' ' * mark.column}^" if line else ""
    return Fault(Mark(source, mark.line + 1, mark.column + 1), f"not valid YAML: {problem}{hint}{shown}")
