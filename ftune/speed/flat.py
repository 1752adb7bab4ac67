"""A micro-batch as one flat sequence: rows end to end, none padded, and the places where each begins."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

FLAT = ("input_ids", "position_ids", "seq_idx", "cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k")
"""What a model reads of a flat batch."""

IGNORED = -100
"""The label of a token that is not trained."""


@dataclass(frozen=True, slots=True)
class FlatCollator:
    """Makes a flat batch of examples with `input_ids` and `labels` (arrays, or lists: they take a few milliseconds).

    Packed ones say `seq_lengths` of their rows too.

    Tensors of T tokens in n rows: `input_ids`, `labels` and `position_ids` (1, T), which begin anew with each row, as
    `seq_idx` counts on; `cu_seq_lens_q` and `cu_seq_lens_k` (n + 1,), int32, where rows begin and the last one ends;
    `max_length_q` and `max_length_k`, a number. transformers' attention takes them by these names. The first label of
    each row is -100: nothing of its own comes before it.
    """

    longest: int = 0
    """What attention is told to be the longest row, if none is longer: what is compiled for one batch does for all."""

    rounded: bool = False
    """Whether a last row without labels, at most 1.6 % of the batch, makes its tokens a multiple of a power of two: a
    GPU's library looks for the best way to multiply anew for each number of tokens that it has not met."""

    def __call__(self, examples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """The batch of `examples`."""
        ids = [np.asarray(example["input_ids"], np.int64) for example in examples]
        labels = [np.asarray(example["labels"], np.int64) for example in examples]
        lengths = [length for example in examples for length in example.get("seq_lengths") or [len(example["labels"])]]
        if self.rounded and (missing := -sum(lengths) % step_of(sum(lengths))):
            lengths.append(missing)
            ids.append(np.zeros(missing, np.int64))
            labels.append(np.full(missing, IGNORED))
        ends = np.cumsum(lengths)
        starts = ends - lengths
        flat = {  # by numpy: torch takes ten times as long to read a list
            "input_ids": np.concatenate(ids),
            "labels": np.concatenate(labels),
            "position_ids": np.arange(sum(lengths)) - np.repeat(starts, lengths),
            "seq_idx": np.repeat(np.arange(len(lengths), dtype=np.int32), lengths),
        }
        flat["labels"][starts] = IGNORED
        batch = {name: torch.from_numpy(values)[None] for name, values in flat.items()}
        return batch | borders_of(lengths, self.longest)


def step_of(tokens: int) -> int:
    """Numbers of tokens that are told apart: 64 to 128 of them between a power of two and the next, 16 at least."""
    return 1 << max(tokens.bit_length() - 7, 4)


def borders_of(lengths: Sequence[int], longest: int = 0) -> dict[str, Any]:
    """What attention has to know of rows of these lengths: where they begin, and at most how long they are."""
    where = torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
    longest = max(longest, *lengths)
    return {"cu_seq_lens_q": where, "cu_seq_lens_k": where, "max_length_q": longest, "max_length_k": longest}
