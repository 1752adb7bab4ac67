"""A micro-batch as one flat sequence: rows end to end, none padded, and the places where each begins."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

IGNORED = -100
"""The label of a token that is not trained."""


@dataclass(frozen=True, slots=True)
class FixedShape:
    """Sizes that all batches have, so that what is compiled for one of them does for all."""

    tokens: int
    """Of a batch. Missing ones are filled with rows that no label is on."""
    rows: int
    """Most rows of a batch, those that fill it up included."""
    longest: int
    """Tokens of the longest row."""


@dataclass(frozen=True, slots=True)
class FlatCollator:
    """Makes a flat batch of examples with `input_ids` and `labels` (arrays, or lists: they take a few milliseconds).

    Packed ones say `seq_lengths` of their rows too.

    Tensors of T tokens in n rows: `input_ids`, `labels` and `position_ids` (1, T), which begin anew with each row, as
    `seq_idx` counts on; `cu_seq_lens_q` and `cu_seq_lens_k` (n + 1,), int32, where rows begin and the last one ends;
    `max_length_q` and `max_length_k`, a number. transformers' attention takes them by these names. The first label of
    each row is -100: nothing of its own comes before it.
    """

    pad_token_id: int
    shape: FixedShape | None = None

    def __call__(self, examples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """The batch of `examples`. Raises ValueError where it does not fit into the fixed shape."""
        ids = [np.asarray(example["input_ids"], np.int64) for example in examples]
        labels = [np.asarray(example["labels"], np.int64) for example in examples]
        lengths = [length for example in examples for length in example.get("seq_lengths") or [len(example["labels"])]]
        fill = _fill(sum(lengths), len(lengths), self.shape) if self.shape else []
        if fill:
            lengths += fill
            ids.append(np.full(sum(fill), self.pad_token_id))
            labels.append(np.full(sum(fill), IGNORED))
        ends = np.cumsum(lengths)
        starts = ends - lengths
        flat = {  # by numpy: torch takes ten times as long to read a list
            "input_ids": np.concatenate(ids),
            "labels": np.concatenate(labels),
            "position_ids": np.arange(sum(lengths)) - np.repeat(starts, lengths),
            "seq_idx": np.repeat(np.arange(len(lengths), dtype=np.int32), lengths),
        }
        flat["labels"][starts] = IGNORED
        longest = self.shape.longest if self.shape else max(lengths)
        borders = torch.from_numpy(np.concatenate([[0], ends]))
        batch = {name: torch.from_numpy(values)[None] for name, values in flat.items()}
        return batch | _between(_padded(borders, self.shape), longest)


def borders_of(lengths: Sequence[int]) -> dict[str, Any]:
    """What attention has to know of rows of these lengths: where they begin, and the longest."""
    return _between(torch.tensor([0, *lengths]).cumsum(0), max(lengths))


def _between(borders: Tensor, longest: int) -> dict[str, Any]:
    where = borders.to(torch.int32)
    return {"cu_seq_lens_q": where, "cu_seq_lens_k": where, "max_length_q": longest, "max_length_k": longest}


def _fill(tokens: int, rows: int, shape: FixedShape) -> list[int]:
    """Lengths of the rows that fill a batch up."""
    missing = shape.tokens - tokens
    whole, rest = divmod(max(missing, 0), shape.longest)
    lengths = [shape.longest] * whole + [rest] * (rest > 0)
    if missing < 0 or rows + len(lengths) > shape.rows:
        raise ValueError(f"{rows} rows of {tokens} tokens do not fit into {shape}")
    return lengths


def _padded(borders: Tensor, shape: FixedShape | None) -> Tensor:
    """Borders of as many rows as the shape has; the missing ones are empty and lie at the end."""
    if shape is None:
        return borders
    return torch.cat([borders, borders[-1:].expand(shape.rows + 1 - len(borders))])
