"""The `data` section: which rows are trained on, and what of them."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, ValidationInfo, model_validator

from ftune.core.paths import find_file
from ftune.core.section import Location, Section
from ftune.core.variants import union_of
from ftune.data.formats.base import RowFormat
from ftune.data.reference import check_path

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ftune.data.prepare import Prepared
    from ftune.data.row import Row
    from ftune.data.template import Template

    AnyFormat = RowFormat
else:
    AnyFormat = union_of(RowFormat)

Share = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1)]


def _search(path: str, info: ValidationInfo) -> str:
    """A local path found beside the working folder or the recipe, as it can be opened from here; else unchanged."""
    folders = (info.context or {}).get("folders", [Path()])
    found = find_file(path, folders) if "://" not in path else None
    return str(found) if found else path


class Source(Section):
    """Where rows come from; a bare path stands for `{path: ...}`."""

    path: str
    """File (.json, .jsonl, .csv, .tsv, .parquet, .txt, also .gz), folder, or hub data set. Local paths are looked up
    from the working folder, then from the recipe's own."""

    name: str | None = None
    """Configuration of a hub data set."""

    split: str = "train"
    """Split of a hub data set."""

    revision: str | None = None
    """Commit, tag or branch of a hub data set."""

    columns: dict[str, str] | None = None
    """New name: the file's own name, as in `{prompt: question, completion: answer}`."""

    rows: Count | None = None
    """Take this many rows, drawn with the recipe's seed; all by default."""

    @model_validator(mode="before")
    @classmethod
    def _find(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, dict) and isinstance(value.get("path"), str):
            return {**value, "path": _search(value["path"], info)}
        return value

    def read(self, seed: int) -> "list[Row]":
        """The rows, or a seeded draw of `rows` of them in their order. Raises DataError."""
        from ftune.data.source import read_rows

        rows = list(
            read_rows(self.path, columns=self.columns, name=self.name, split=self.split, revision=self.revision)
        )
        if self.rows is None or self.rows >= len(rows):
            return rows
        drawn = random.Random(seed).sample(range(len(rows)), self.rows)  # noqa: S311 - a seeded draw, no secret
        return [rows[index] for index in sorted(drawn)]

    def faults(self) -> Iterator[tuple[Location, str]]:
        """A local file that is not there."""
        if problem := check_path(self.path):
            yield ("path",), problem


class TrainingSource(Source):
    """A source of training rows."""

    weight: Annotated[float, Field(gt=0)] = 1.0
    """How often each row is taken in an epoch: 2 twice, 0.5 half of the rows, drawn with the recipe's seed."""


class Validation(Section):
    """Rows that are held out: some of the training rows or a source of their own."""

    source: Annotated[Source, BeforeValidator(lambda value: bare_path(value))] | None = None
    """Rows of their own; a bare path under `validation` stands for this."""

    fraction: Share | None = None
    """Share of the training rows to hold out; a bare number under `validation` stands for this."""

    count: Count | None = None
    """Number of training rows to hold out."""

    def hold_out(self, sources: "list[list[Row]]", seed: int) -> "tuple[list[list[Row]], list[list[Row]]]":
        """The rows of each source that stay for training, and those held out: its own, or drawn from all sources.

        Exact duplicates are never on both sides, whichever source they come from.
        """
        from ftune.data.split import split

        if self.source is not None:
            return sources, [self.source.read(seed)]
        places = [(number, row) for number, rows in enumerate(sources) for row in rows]
        keys = [json.dumps(row.values, sort_keys=True, default=str) for _, row in places]
        sides = split(keys, self.fraction or self.count or 0, seed)
        train: list[list[Row]] = [[] for _ in sources]
        out: list[list[Row]] = [[] for _ in sources]
        for side, indexes in zip((train, out), sides, strict=True):
            for number, row in map(places.__getitem__, indexes):
                side[number].append(row)
        return train, out

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if sum(way is not None for way in (self.source, self.fraction, self.count)) != 1:
            raise ValueError("give one of 'source', 'fraction' and 'count'")
        return self


def bare_path(value: object) -> object:
    """A bare path as the source that it stands for."""
    return {"path": value} if isinstance(value, str) else value


def _sources(value: object) -> object:
    items = value if isinstance(value, list) else [value]
    return [bare_path(item) for item in items]


def _validation(value: object) -> object:
    if isinstance(value, float):
        return {"fraction": value}
    if isinstance(value, int) and not isinstance(value, bool):
        return {"count": value}
    if isinstance(value, str) or (isinstance(value, dict) and "path" in value):
        return {"source": value}
    return value


def _format(value: object) -> object:
    return None if value in ("auto", {"type": "auto"}) else value


class Data(Section):
    """Rows, what of them is trained on, and how long they may be."""

    train: Annotated[
        list[TrainingSource],
        Field(min_length=1),
        BeforeValidator(_sources, json_schema_input_type=str | TrainingSource | list[str | TrainingSource]),
    ]
    """Training rows: a path, a source or a list of them."""

    validation: Annotated[
        Validation | None,
        BeforeValidator(_validation, json_schema_input_type=str | Share | Count | Source | Validation | None),
    ] = None
    """Held-out rows: a path, a source, a share (`0.05`) or a number (`64`) of the training rows."""

    format: Annotated[AnyFormat | None, BeforeValidator(_format)] = None
    """Layout of the rows; by default (`auto`) it is detected from the first rows and the reason is said."""

    max_length: Annotated[int, Field(ge=8)] = 1024
    """Longest row in tokens."""

    mask: Literal["assistant", "completion", "last", "all"] = "assistant"
    """Which tokens are trained: every assistant turn, the completion (of a chat: its last assistant turn), the last
    assistant turn, or everything."""

    packing: bool = False
    """Put several rows into one sequence of `max_length`, without attention between them."""

    on_bad_row: Literal["error", "drop"] = "error"
    """A row that cannot be read or has nothing to train on ends the run, or is dropped and counted."""

    on_long_row: Literal["error", "drop", "truncate"] = "drop"
    """A row over `max_length` ends the run, is dropped and counted, or is cut at its end and counted."""

    num_proc: Count = 1
    """Processes that tokenise."""

    def load(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        template: "Template | None",
        *,
        seed: int,
        vocab_size: int,
        positions: int | None,
    ) -> "tuple[Prepared, Prepared | None]":
        """Training rows and held-out rows as masked tokens.

        A row longer than `positions`, what the model can read, counts as too long whatever `max_length` is. Raises
        DataError for what cannot be trained on.
        """
        from ftune.data.join import join, taken
        from ftune.data.prepare import prepare

        def prepared(rows: "list[Row]") -> "Prepared":
            return prepare(
                rows,
                self.format,
                tokenizer,
                template,
                mask=self.mask,
                max_length=min(self.max_length, positions or self.max_length),
                on_bad_row=self.on_bad_row,
                on_long_row=self.on_long_row,
                vocab_size=vocab_size,
                num_proc=self.num_proc,
            )

        sources = [source.read(seed) for source in self.train]
        held_out: list[list[Row]] = []
        if self.validation is not None:
            sources, held_out = self.validation.hold_out(sources, seed)
        parts = [prepared(rows) for rows in sources]
        takes = [
            taken(len(part.input_ids), source.weight, seed) for part, source in zip(parts, self.train, strict=True)
        ]
        kept = [prepared(rows) for rows in held_out if rows]
        train = join(parts, takes)
        return train, join(kept, [range(len(part.input_ids)) for part in kept]) if kept else None
