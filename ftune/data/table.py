"""Rows of tokens as flat arrays: a million rows are a few files, mapped into memory, not a million lists."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from ftune.data.row import Row
from ftune.data.tokenize import IGNORED, Answer, Tokens

if TYPE_CHECKING:
    from types import TracebackType

COLUMNS: dict[str, type[np.generic]] = {
    "ids": np.int32,
    "trained": np.bool_,
    "ends": np.int64,
    "lines": np.int64,
    "files": np.int32,
    "numbers": np.int64,
    "keys": np.uint64,
    "groups": np.uint64,
    "scores": np.float32,
}
"""The files of a table, each one flat array in the machine's byte order."""


@dataclass(frozen=True, slots=True, eq=False)
class TokenTable:
    """Sequences of tokens with the places that they came from; N sequences of T tokens in all."""

    ids: NDArray[np.int32]
    """Token ids, sequence after sequence, shape (T,)."""
    trained: NDArray[np.bool_]
    """Whether a token is trained, shape (T,)."""
    ends: NDArray[np.int64]
    """Where each sequence ends in `ids`, shape (N,)."""
    lines: NDArray[np.int64]
    """The line that each row begins at, shape (N,)."""
    files: NDArray[np.int32]
    """Which file it is in, an index into `names`, shape (N,)."""
    numbers: NDArray[np.int64]
    """The number of the row in its source, from 0, dropped ones counted too, shape (N,)."""
    keys: NDArray[np.uint64]
    """Hash of the row's content: equal for exact duplicates and for the pieces of one row, shape (N,)."""
    groups: NDArray[np.uint64]
    """Hash of the row's value in the group column; 0 without one, shape (N,)."""
    scores: NDArray[np.float32]
    """Of preferences the margin, of feedback 1 (good) or 0 (bad), of texts with a class its place among the classes;
    NaN where a row has none, shape (N,)."""
    names: list[str]
    """Files that rows came from."""

    def __len__(self) -> int:
        """The number of sequences."""
        return len(self.ends)

    @property
    def starts(self) -> NDArray[np.int64]:
        """Where each sequence begins in `ids`, shape (N,)."""
        return np.concatenate([np.zeros(1, np.int64), self.ends[:-1]]) if len(self.ends) else self.ends

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each sequence, shape (N,)."""
        return self.ends - self.starts

    @property
    def trained_counts(self) -> NDArray[np.int64]:
        """Trained tokens of each sequence, shape (N,)."""
        if not len(self):
            return self.ends
        return np.add.reduceat(self.trained, self.starts, dtype=np.int64)

    def ids_of(self, index: int) -> list[int]:
        """The tokens of one sequence."""
        ids: list[int] = self.ids[self._span(index)].tolist()
        return ids

    def labels_of(self, index: int) -> list[int]:
        """Its labels: the id where a token is trained, -100 elsewhere."""
        span = self._span(index)
        labels: list[int] = np.where(self.trained[span], self.ids[span], IGNORED).tolist()
        return labels

    def arrays_of(self, index: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Its tokens and its labels."""
        span = self._span(index)
        ids = self.ids[span].astype(np.int64)
        return ids, np.where(self.trained[span], ids, IGNORED)

    def origin_of(self, index: int) -> str:
        """`file:line` of one sequence."""
        return f"{self.names[self.files[index]]}:{self.lines[index]}"

    @classmethod
    def open(cls, folder: Path, names: list[str], *, mapped: bool) -> Self:
        """The table that a TableWriter left in `folder`: mapped from its files, or read into memory."""
        arrays: dict[str, Any] = {}
        for name, kind in COLUMNS.items():
            path = folder / f"{name}.bin"
            empty = path.stat().st_size == 0  # nothing can be mapped there
            arrays[name] = np.memmap(path, kind, "r") if mapped and not empty else np.fromfile(path, kind)
        return cls(**arrays, names=names)

    def _span(self, index: int) -> slice:
        return slice(int(self.ends[index - 1]) if index else 0, int(self.ends[index]))


class TableWriter:
    """Writes a table row by row; it never holds more than a buffer of it."""

    def __init__(self, folder: Path) -> None:
        """`folder` exists."""
        self._folder = folder
        self._numbers: dict[str, int] = {}
        self._end = 0
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Open the files."""
        self._out = {name: self._stack.enter_context((self._folder / f"{name}.bin").open("wb")) for name in COLUMNS}
        return self

    def __exit__(
        self, kind: "type[BaseException] | None", error: BaseException | None, trace: "TracebackType | None"
    ) -> None:
        """Close them."""
        self._stack.close()

    def add(self, row: Row, tokens: Tokens, *, number: int, key: int, group: int, score: float) -> None:
        """Append one sequence of `row`."""
        self._end += len(tokens.input_ids)
        values: dict[str, Any] = {
            "ids": tokens.input_ids,
            "trained": [label != IGNORED for label in tokens.labels],
            "ends": [self._end],
            "lines": [row.line],
            "files": [self._numbers.setdefault(row.file, len(self._numbers))],
            "numbers": [number],
            "keys": [key],
            "groups": [group],
            "scores": [score],
        }
        for name, kind in COLUMNS.items():
            self._out[name].write(np.array(values[name], kind).tobytes())

    @property
    def names(self) -> list[str]:
        """The files that rows came from, in the order in which they were met."""
        return list(self._numbers)


def pieces_of(tokens: Tokens, length: int) -> Iterator[Tokens]:
    """A long text as consecutive sequences of at most `length` tokens, each trained token in exactly one of them.

    A piece begins with the last token of the piece before it, from which its first own token is predicted.
    """
    for start in range(0, len(tokens.input_ids) - 1, length - 1):
        ids, labels = tokens.input_ids[start : start + length], tokens.labels[start : start + length]
        yield Tokens(ids, [IGNORED, *labels[1:]], [Answer(0, len(ids), None)])
