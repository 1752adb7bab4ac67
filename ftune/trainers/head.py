"""The head of a reward model or a classifier, put on a causal language model."""

from typing import TYPE_CHECKING, Any

import torch

from ftune.core.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NAME = "score"
"""What transformers calls the head of causal models for sequence classification."""


class ScoreHead(torch.nn.Linear):
    """A linear head without bias that computes in fp32, whatever the model computes in.

    In bf16, scores around 4 would be 0.03 apart, and many pairs of answers a tie.
    """

    keeps_dtype = True
    """Where a backend casts weights for a forward pass, not these."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Scores in fp32 of hidden states of any dtype."""
        with torch.autocast(hidden.device.type, enabled=False):
            return torch.nn.functional.linear(hidden.float(), self.weight.float())


def put_head(model: "PreTrainedModel", *, new: bool, seed: int) -> None:
    """Replace the head of a sequence classification model by one in fp32: a new one, or with the weights it has.

    A new one starts small, normal with a standard deviation of 1 / (width + 1), so that the first scores are near 0 and
    no answer is preferred. Raises ModelError where the model has no such head.
    """
    old: Any = getattr(model, NAME, None)
    if not isinstance(old, torch.nn.Linear) or getattr(old, "bias", None) is not None:
        raise ModelError(
            f"model.path: '{type(model).__name__}' has no linear head named '{NAME}'; a reward model is made from a "
            "causal language model"
        )
    head = ScoreHead(old.in_features, old.out_features, bias=False, device=old.weight.device, dtype=torch.float32)
    with torch.no_grad():
        if new:
            drawn = torch.randn(head.weight.shape, generator=torch.Generator().manual_seed(seed))
            head.weight.copy_(drawn / (old.in_features + 1))
        else:
            head.weight.copy_(old.weight)
    setattr(model, NAME, head)


def typical_score(model: torch.nn.Module) -> float:
    """The size of a score of a new head, for hidden states of size 1: its weights may be tiny."""
    heads = [module for module in model.modules() if isinstance(module, ScoreHead)]
    return float(heads[-1].weight.detach().norm()) if heads else 1.0
