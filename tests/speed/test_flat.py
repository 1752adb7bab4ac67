"""Flat batches: all tokens of all rows, borders where rows begin, one size where one is wanted."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from ftune.speed.flat import FixedShape, FlatCollator

rows = st.lists(st.integers(1, 9), min_size=1, max_size=6)


def examples_of(lengths: list[list[int]]) -> list[dict[str, Any]]:
    """One example for each list of lengths; numbers say which token it is."""
    made, first = [], 1
    for seq_lengths in lengths:
        ids = list(range(first, first + sum(seq_lengths)))
        first += len(ids)
        made.append({"input_ids": ids, "labels": [-100 if token % 3 == 0 else token for token in ids]})
        if len(seq_lengths) > 1:
            made[-1]["seq_lengths"] = seq_lengths
    return made


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.booleans())
def test_a_flat_batch_is_that_of_trl(lengths: list[int], packed: bool) -> None:
    examples = examples_of([lengths]) if packed else examples_of([[length] for length in lengths])
    found = FlatCollator(pad_token_id=0)(examples)
    expected = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)(examples)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(torch.as_tensor(found[name]), torch.as_tensor(value)), name
        assert not torch.is_tensor(value) or found[name].dtype == value.dtype, name


@given(rows, st.integers(0, 30), st.integers(0, 5))
def test_a_fixed_shape_adds_rows_without_labels_behind_the_same_batch(
    lengths: list[int], more: int, slack: int
) -> None:
    tokens, longest = sum(lengths), max(lengths)
    shape = FixedShape(tokens + more, len(lengths) + -(-more // longest) + slack, longest)
    examples = examples_of([[length] for length in lengths])
    exact, fixed = FlatCollator(0)(examples), FlatCollator(0, shape)(examples)
    for name in ("input_ids", "labels", "position_ids", "seq_idx"):
        assert fixed[name].shape == (1, shape.tokens)
        assert torch.equal(fixed[name][:, :tokens], exact[name])
    assert (fixed["labels"][:, tokens:] == -100).all()
    borders = fixed["cu_seq_lens_q"]
    assert len(borders) == shape.rows + 1
    assert torch.equal(borders[: len(lengths) + 1], exact["cu_seq_lens_q"])
    assert borders[-1] == shape.tokens
    assert 0 <= int(borders.diff().min()) <= int(borders.diff().max()) <= fixed["max_length_q"] == longest


def test_what_does_not_fit_is_refused() -> None:
    for shape in (FixedShape(tokens=4, rows=9, longest=5), FixedShape(tokens=30, rows=2, longest=5)):
        with pytest.raises(ValueError, match="2 rows of 5 tokens do not fit"):
            FlatCollator(0, shape)(examples_of([[2], [3]]))
