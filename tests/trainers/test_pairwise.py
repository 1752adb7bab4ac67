"""The loss of pairs against a slow one in plain Python, and how prompts become batches."""

import math
from itertools import combinations
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ftune.trainers.judged import Padding, PairCollator
from ftune.trainers.pairwise import pair_losses
from ftune.trainers.scoring import probe_scores, score_rows
from ftune.trainers.tally import Tally

Number = st.floats(-5, 5)


@given(Number, Number, Number, st.floats(0, 0.4), st.floats(0, 1))
def test_the_loss_is_that_of_the_papers(better: float, worse: float, margin: float, smoothing: float, c: float) -> None:
    lead = better - worse - margin
    wanted = (1 - smoothing) * math.log1p(math.exp(-lead)) + smoothing * math.log1p(math.exp(lead))
    wanted += c * (better + worse) ** 2
    values = (torch.tensor([value], dtype=torch.float64) for value in (better, worse, margin))
    found = pair_losses(*values, label_smoothing=smoothing, center=c)
    assert float(found) == pytest.approx(wanted, rel=1e-9, abs=1e-12)


def example(answers: list[list[int]], ranks: list[float]) -> dict[str, Any]:
    """A prompt with all of its pairs, as the data set gives it."""
    chosen = [(i, j) for i, j in combinations(range(len(answers)), 2) if ranks[i] > ranks[j]]
    return {
        "input_ids": [token for answer in answers for token in answer],
        "lengths": [len(answer) for answer in answers],
        "better": [i for i, _ in chosen],
        "worse": [j for _, j in chosen],
        "margins": [ranks[i] - ranks[j] for i, j in chosen],
    }


def test_a_batch_computes_each_answer_once_and_weighs_prompts_alike() -> None:
    many = example([[5, 6, 7], [8, 9], [4], [3, 3]], [4, 3, 2, 1])
    two = example([[1], [2, 2]], [2, 1])
    batch = PairCollator(Padding(0), with_margins=True)([many, two])
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 9, 0], [4, 0, 0], [3, 3, 0], [1, 0, 0], [2, 2, 0]]
    assert list(zip(batch["better"].tolist(), batch["worse"].tolist(), strict=True)) == [
        (0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3), (4, 5)
    ]  # fmt: skip
    assert batch["weights"].tolist() == pytest.approx([1 / 6] * 6 + [1])
    assert batch["margins"].tolist() == [1, 2, 3, 1, 2, 1, 1]
    assert batch["items"] == 2
    assert PairCollator(Padding(0), with_margins=False)([many])["margins"].tolist() == [0] * 6


def test_scores_come_back_in_the_order_of_the_rows() -> None:
    class Sum(torch.nn.Module):
        """The score of a row is the sum of its tokens."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1))

        def forward(self, input_ids: torch.Tensor, use_cache: bool) -> Any:
            return type("Out", (), {"logits": input_ids.sum(1, keepdim=True) * self.weight})

    rows = [[3, 3, 3], [1], [2, 2], [9, 9, 9, 9], [5]]
    model: Any = Sum()
    for at_once in (1, 2, 5):
        scores = score_rows(model, rows, Padding(0), at_once=at_once, dtype=torch.float32)
        assert scores[:, 0].tolist() == [9, 1, 4, 36, 5]


def test_a_model_that_sees_padding_is_refused(tiny_model: Any) -> None:
    from transformers import AutoModelForSequenceClassification

    from ftune.core.errors import ModelError
    from ftune.trainers.head import put_head

    model = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=1)
    put_head(model, new=True, seed=0)
    rows = [[5, 6, 7], [8, 9], [4, 4, 4, 4, 4, 4]]
    assert probe_scores(model, rows, Padding(model.config.pad_token_id), torch.float32) < 1e-6
    with pytest.raises(ModelError, match="padding changes the scores"):
        probe_scores(model, rows, Padding(11), torch.float32)


def test_means_are_over_everything_since_the_last_reading() -> None:
    tally = Tally()
    tally.add(accuracy=torch.tensor([1.0, 0.0, 1.0]))
    tally.add(accuracy=torch.tensor([0.0]), margin=torch.tensor([3.0]))
    unread = tally.unread()
    tally.add(accuracy=torch.tensor([math.nan]))  # the next step has begun when this one is read
    tally.read([float(value) for value in unread])
    tally.end_step(counts=True)
    tally.read([float(value) for value in tally.unread()])
    tally.end_step(counts=False)
    assert tally.means() == {"accuracy": 0.5, "margin": 3.0}
    assert tally.means() == {}
