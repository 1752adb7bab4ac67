"""What the trainer draws from: prepared sequences by index, or a stream; packed or one row each."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset, IterableDataset

from ftune.data.prepared import Prepared
from ftune.data.stream import Position, Stream

Example = dict[str, Any]
"""`input_ids` and `labels` (of packed rows also `seq_lengths`), and `row`: what names the rows in messages."""

Tokens = NDArray[np.int64] | list[int]
"""Ids or labels of a row."""


class PreparedDataset(Dataset[Example]):
    """Prepared sequences, read from their tables when they are asked for."""

    def __init__(self, prepared: Prepared, bins: Sequence[Sequence[int]] | None = None) -> None:
        """`bins` are the packed sequences as indexes into `prepared`; without them each row stands alone."""
        self.prepared, self.bins = prepared, bins

    def __len__(self) -> int:
        return len(self.prepared) if self.bins is None else len(self.bins)

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        lengths = self.prepared.lengths
        return int(lengths.max() if self.bins is None else max(lengths[list(rows)].sum() for rows in self.bins))

    def __getitem__(self, index: int) -> Example:
        """One sequence."""
        if self.bins is None:
            ids, labels = self.prepared.arrays(index)
            return {"input_ids": ids, "labels": labels, "row": index}
        rows = list(self.bins[index])
        sides = [self.prepared.arrays(row) for row in rows]
        return packed([ids for ids, _ in sides], [labels for _, labels in sides]) | {"row": rows}


class StreamDataset(IterableDataset[Example]):
    """A stream from a position on. Each example also says where the stream stands behind it."""

    def __init__(self, stream: Stream, start: Position) -> None:
        self.stream, self.start = stream, start

    @property
    def longest(self) -> int | None:
        """Tokens that a sequence can have; None where nothing limits them."""
        return self.stream.capacity or self.stream.rules.max_length

    def __iter__(self) -> Iterator[Example]:
        """Sequences without end."""
        for sequence in self.stream.sequences(self.start):
            ids, labels = [row.input_ids for row in sequence.rows], [row.labels for row in sequence.rows]
            example = {"input_ids": ids[0], "labels": labels[0]}
            if self.stream.capacity is not None:
                example = packed(ids, labels)
            yield example | {"row": sequence.origins, "position": [sequence.after.window, sequence.after.taken]}


def packed(ids: Sequence[Tokens], labels: Sequence[Tokens]) -> Example:
    """Rows end to end. The first label of each is -100: nothing of its own comes before it."""
    return {
        "input_ids": np.concatenate(ids),
        "labels": np.concatenate(labels),
        "seq_lengths": [len(row) for row in ids],
    }
