"""Batches say which rows they hold and what these cost, however the rows lie in examples."""

from typing import Any

import pytest
import torch

from ftune.trainers.reliable import CountingCollator


@pytest.mark.parametrize(
    ("examples", "rows", "squares"),
    [
        ([{"input_ids": [1] * 3, "row": 7}, {"input_ids": [1] * 2, "row": 4}], [7, 4], 9 + 4),
        ([{"input_ids": [1] * 5, "seq_lengths": [3, 2], "row": [7, 4]}], [7, 4], 9 + 4),
        ([{"input_ids": [1] * 5, "lengths": [1, 4], "row": [3]}], [3], 1 + 16),
    ],
)
def test_rows_and_their_cost_are_counted(examples: list[dict[str, Any]], rows: list[int], squares: int) -> None:
    labels = torch.tensor([[-100, 1, 1, -100, 1]])
    batch = CountingCollator(lambda examples: {"labels": labels})(examples)
    assert (batch["rows"], batch["tokens"], batch["trained_tokens"], batch["squares"]) == (rows, 5, 3, squares)
    verdicts = CountingCollator(lambda examples: {"trained_tokens": 2})(examples)
    assert verdicts["trained_tokens"] == 2
