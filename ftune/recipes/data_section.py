"""The `data` section: which rows are trained on, and what of them."""

import os
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, ValidationInfo, model_validator

from ftune.core.paths import find_file
from ftune.core.section import Location, Section
from ftune.core.variants import union_of
from ftune.data.formats.base import RowFormat
from ftune.data.mixing.base import Mix
from ftune.data.mixing.concatenate import Concatenate
from ftune.data.reference import check_path

if TYPE_CHECKING:
    from ftune.data.intake import Answers, Rules
    from ftune.data.row import BadRow, Row

    AnyFormat = RowFormat
    AnyMix = Mix
else:
    AnyFormat = union_of(RowFormat)
    AnyMix = union_of(Mix)

Share = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1)]


def _search(path: str, info: ValidationInfo) -> str:
    """A local path found beside the working folder or the recipe, as it can be opened from here; else unchanged."""
    folders = (info.context or {}).get("folders", [Path()])
    found = find_file(path, folders) if "://" not in path else None
    return os.path.normpath(found) if found else path


def _format(value: object) -> object:
    return None if value in ("auto", {"type": "auto"}) else value


Format = Annotated[AnyFormat | None, BeforeValidator(_format)]


class Source(Section):
    """Where rows come from; a bare path stands for `{path: ...}`."""

    path: str
    """File (.json, .jsonl, .csv, .tsv, .parquet, .arrow, .txt, also compressed), folder, glob (`data/*.jsonl`), hub
    data set, or URL (`https://`, `s3://`, `gs://`). Local paths are looked up from the working folder, then from the
    recipe's own."""

    name: str | None = None
    """Configuration of a hub data set."""

    split: str = "train"
    """Split of a hub data set, or key of the rows in a file such as `{"train": [...], "test": [...]}`."""

    revision: str | None = None
    """Commit, tag or branch of a hub data set."""

    columns: dict[str, str] | list[str] | None = None
    """New name: the file's own name, as in `{prompt: question, completion: answer}`; a list names the columns of a
    CSV or TSV file without a header."""

    encoding: str | None = None
    """Encoding of text files, such as `latin-1`; by default UTF-8, or what the file's first bytes say."""

    documents: Literal["file", "blank_line", "line"] = "file"
    """What one row of a .txt file is: the file, a stretch between blank lines, or a line."""

    format: Format = None
    """Layout of these rows, instead of `data.format`."""

    rows: Count | None = None
    """Take this many rows, drawn with the recipe's seed; all by default."""

    @model_validator(mode="before")
    @classmethod
    def _find(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, dict) and isinstance(value.get("path"), str):
            return {**value, "path": _search(value["path"], info)}
        return value

    def read(
        self, seed: int, remark: Callable[[str], None] | None = None, *, streaming: bool = False
    ) -> "Iterator[Row | BadRow]":
        """The rows, or a seeded draw of `rows` of them in their order. Raises DataError.

        `streaming` does not fetch a hub data set first. `remark` is told what else there is to say of the files, such
        as a key that the rows were wrapped under.
        """
        from ftune.data.source import read_rows

        rows = read_rows(
            self.path,
            columns=self.columns,
            name=self.name,
            split=self.split,
            revision=self.revision,
            encoding=self.encoding,
            documents=self.documents,
            streaming=streaming,
            remark=remark,
        )
        return rows if self.rows is None else _drawn(rows, self.rows, seed)

    def identity(self, seed: int, *, streaming: bool = False) -> dict[str, object]:
        """Everything that decides which rows are read, the bytes of the files included."""
        from ftune.data.fingerprint import source_fingerprint

        bytes_of = source_fingerprint(
            self.path, name=self.name, split=self.split, revision=self.revision, streaming=streaming
        )
        own = self.model_dump(mode="json", exclude={"format", "weight"})
        return {**own, "bytes": bytes_of, "seed": seed if self.rows is not None else None}

    def faults(self) -> Iterator[tuple[Location, str]]:
        """A local file that is not there."""
        if problem := check_path(self.path):
            yield ("path",), problem


def _drawn(rows: "Iterator[Row | BadRow]", wanted: int, seed: int) -> "Iterator[Row | BadRow]":
    """A seeded draw of `wanted` rows in their order, in one pass (algorithm R of Vitter, 1985)."""
    rng = random.Random(seed)  # noqa: S311 - a seeded draw, no secret
    held: list[tuple[int, Row | BadRow]] = []
    for number, row in enumerate(rows):
        place = number if number < wanted else rng.randrange(number + 1)
        if number < wanted:
            held.append((number, row))
        elif place < wanted:
            held[place] = (number, row)
    yield from (row for _, row in sorted(held, key=lambda pair: pair[0]))


class TrainingSource(Source):
    """A source of training rows."""

    weight: Annotated[float, Field(gt=0)] = 1.0
    """How much this source counts in the mixture; see `data.mix`."""


class Validation(Section):
    """Rows that are held out: some of the training rows or a source of their own."""

    source: Annotated[Source, BeforeValidator(lambda value: bare_path(value))] | None = None
    """Rows of their own; a bare path under `validation` stands for this."""

    fraction: Share | None = None
    """Share of the training rows to hold out; a bare number under `validation` stands for this."""

    count: Count | None = None
    """Number of training rows to hold out."""

    group: str | None = None
    """A column, such as `user_id`: rows that share its value are held out together or not at all."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if sum(way is not None for way in (self.source, self.fraction, self.count)) != 1:
            raise ValueError("give one of 'source', 'fraction' and 'count'")
        if self.group is not None and self.source is not None:
            raise ValueError("'group' splits the training rows; it does nothing beside a 'source' of held-out rows")
        return self


class Streaming(Section):
    """Rows that are read while the model trains, for sets that are larger than memory and disk cache."""

    shuffle_buffer: Count = 1000
    """So many rows are held in memory to be shuffled."""


def bare_path(value: object) -> object:
    """A bare path as the source that it stands for."""
    return {"path": value} if isinstance(value, str) else value


def as_sources(value: object) -> object:
    """A path, a source or a list of them as the list that it stands for."""
    items = value if isinstance(value, list) else [value]
    return [bare_path(item) for item in items]


def as_validation(value: object) -> object:
    """A path, a share or a number as the section that it stands for."""
    if isinstance(value, float):
        return {"fraction": value}
    if isinstance(value, int) and not isinstance(value, bool):
        return {"count": value}
    if isinstance(value, str) or (isinstance(value, dict) and "path" in value):
        return {"source": value}
    return value


def _streaming(value: object) -> object:
    return {True: {}, False: None}[value] if isinstance(value, bool) else value


class RowsSection(Section):
    """Rows and how long they may be; what is trained of them is a command's own."""

    train: Annotated[
        list[TrainingSource],
        Field(min_length=1),
        BeforeValidator(as_sources, json_schema_input_type=str | TrainingSource | list[str | TrainingSource]),
    ]
    """Training rows: a path, a source or a list of them."""

    mix: AnyMix = Concatenate()
    """How several sources become one set: `concatenate`, `interleave` or `proportional`."""

    validation: Annotated[
        Validation | None,
        BeforeValidator(as_validation, json_schema_input_type=str | Share | Count | Source | Validation | None),
    ] = None
    """Held-out rows: a path, a source, a share (`0.05`) or a number (`64`) of the training rows."""

    format: Format = None
    """Layout of the rows; by default (`auto`) it is detected from the first rows and the reason is said."""

    max_length: Annotated[int, Field(ge=8)] = 1024
    """Longest row in tokens."""

    on_bad_row: Literal["error", "drop"] = "error"
    """A row that cannot be read or has nothing to train on ends the run, or is dropped and counted."""

    on_long_row: Literal["auto", "error", "drop", "truncate"] = "auto"
    """A row over `max_length` ends the run, is dropped and counted, or is cut at its end and counted; `auto` splits
    plain text into several sequences and drops other rows."""

    num_proc: Count = 1
    """Processes that tokenise."""

    def rules(self, positions: int | None) -> "Rules":
        """How rows become sequences; a row longer than `positions`, what the model can read, is always too long."""
        from ftune.data.intake import Rules

        return Rules(
            max_length=min(self.max_length, positions or self.max_length),
            on_bad_row=self.on_bad_row,
            on_long_row=self.on_long_row,
            group=self.validation.group if self.validation else None,
        )


class Data(RowsSection):
    """Rows, what of them is trained on, and how long they may be."""

    mask: Literal["assistant", "completion", "last", "all"] = "assistant"
    """Which tokens are trained: every assistant turn, the completion (of a chat: its last assistant turn), the last
    assistant turn, or everything."""

    packing: bool = False
    """Put several rows into one sequence of `max_length`, without attention between them."""

    on_preference: Literal["error", "chosen"] = "error"
    """A row with a good and a bad answer, or with a verdict on its answer, ends the run, or its good answer is
    trained."""

    streaming: Annotated[
        Streaming | None, BeforeValidator(_streaming, json_schema_input_type=bool | Streaming | None)
    ] = None
    """Read and tokenise while training instead of before it; needs `schedule.max_steps`."""

    @model_validator(mode="after")
    def _streamable(self) -> Self:
        if self.streaming is None:
            return self
        if not self.mix.streams:
            raise ValueError(
                f"mix: '{self.mix.name()}' needs to know how many rows the sources have, and a stream does not; "
                "use 'interleave' with weights"
            )
        if self.validation is not None and self.validation.source is None:
            raise ValueError("validation: a stream cannot be split; give held-out rows of their own (a path)")
        if self.num_proc > 1:
            raise ValueError("num_proc: a stream is tokenised where it is trained on; remove 'num_proc'")
        return self

    def rules(self, positions: int | None) -> "Rules":
        """With the mask, and with what becomes of rows that have several answers."""
        answers: Answers = "chosen" if self.on_preference == "chosen" else "one"
        return replace(super().rules(positions), mask=self.mask, answers=answers)
