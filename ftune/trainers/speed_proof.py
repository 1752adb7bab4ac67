"""Proof before the first step that what makes a model fast leaves its loss and gradients what they were."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ftune.backends.engines.sharding import device_of
from ftune.speed.flat import FlatCollator
from ftune.speed.loss import LIMITS, add_places

GRADIENT_LIMITS = {torch.float32: 1e-3, torch.bfloat16: 0.2, torch.float16: 0.2}
"""How far a parameter's gradient may be from the plain one, relative to its norm, by the dtype of products.

Wide for rounding, and still far below what an adapter in another layer's place would make.
"""

LOOKED_AT = 2**28
"""Numbers of gradients that are compared: 1 GiB."""

SPREAD = 0.02
"""Of what stands for parameters that are zero at the start, which would hide that they are used."""


@dataclass(frozen=True, slots=True)
class Proof:
    """Loss and gradients of a few tokens, as the model has them before anything is changed."""

    rows: list[list[int]]
    dtype: torch.dtype
    loss: float
    gradients: dict[str, Tensor]
    """Of the parameters that train, by name."""
    longest: int
    """What attention is told to be the longest row."""

    @classmethod
    def of(cls, model: PreTrainedModel, rows: list[list[int]], dtype: torch.dtype, longest: int) -> "Proof":
        """Of `rows` as one flat batch; the model has been given its loss and an attention for it."""
        with _nothing_zero(model):
            loss, gradients = _measured(model, rows, dtype, longest)
        return cls(rows, dtype, loss, gradients, longest)

    def run(self, model: PreTrainedModel) -> None:
        """The rows once more, for whoever watches."""
        _measured(model, self.rows, self.dtype, self.longest)

    def fault(self, model: PreTrainedModel) -> str:
        """What is not as it was; empty where all is."""
        with _nothing_zero(model):
            loss, gradients = _measured(model, self.rows, self.dtype, self.longest)
        if not abs(loss - self.loss) <= LIMITS[self.dtype] * abs(self.loss):
            return f"the loss becomes {loss:.6g}, it was {self.loss:.6g}"
        for name, before in self.gradients.items():
            if name not in gradients:
                return f"{name} gets no gradient"
            off = float((gradients[name] - before).norm() / before.norm().clamp(min=1e-30))
            if not off <= GRADIENT_LIMITS[self.dtype]:
                return f"the gradient of {name} is {off:.1%} off"
        return ""


def _measured(
    model: PreTrainedModel, rows: Sequence[list[int]], dtype: torch.dtype, longest: int
) -> tuple[float, dict[str, Tensor]]:
    """Summed loss, and gradients where they are on; in training's mode, where that draws no random numbers."""
    device, was_training = device_of(model), model.training
    model.train(not _drops(model))
    examples = [{"input_ids": list(row), "labels": list(row)} for row in rows]
    batch: dict[str, Any] = add_places(FlatCollator(longest)(examples))
    batch = {name: value.to(device) if torch.is_tensor(value) else value for name, value in batch.items()}
    del batch["labels"]
    model.zero_grad(set_to_none=True)
    try:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            loss: Tensor = model(**batch).loss
        if not torch.is_grad_enabled():
            return float(loss), {}
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach()), {name: one.grad.float() for name, one in _looked_at(model) if one.grad is not None}
    finally:
        model.zero_grad(set_to_none=True)
        model.train(was_training)


def _looked_at(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Parameters that train, the smallest first, as many as stay small together: gradients are kept beside the model.

    All of an adapter, and some of each kind of a whole model's.
    """
    trained = [(name, one) for name, one in model.named_parameters() if one.requires_grad]
    total = 0
    for name, one in sorted(trained, key=lambda named: named[1].numel()):
        total += one.numel()
        if total > LOOKED_AT:
            return
        yield name, one


def _drops(model: nn.Module) -> bool:
    """Whether a forward pass in training draws random numbers: by a module, or by what a module keeps as a share."""
    return any(
        (isinstance(module, nn.Dropout) and module.p > 0)
        or any("drop" in name and isinstance(value, float) and value > 0 for name, value in vars(module).items())
        for module in model.modules()
    )


@contextmanager
@torch.no_grad()
def _nothing_zero(model: nn.Module) -> Iterator[None]:
    """The model with small numbers in what trains and is all zero; behind, it is zero again."""
    zeros = [one for one in model.parameters() if one.requires_grad and not one.any()]
    numbers = torch.Generator().manual_seed(0)
    for one in zeros:
        one.copy_(torch.randn(one.shape, generator=numbers).mul_(SPREAD))
    try:
        with torch.enable_grad():
            yield
    finally:
        for one in zeros:
            one.zero_()
