"""Proof before the first step that what makes a model fast leaves its loss and gradients what they were."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ftune.backends.engines.sharding import device_of
from ftune.speed.flat import FlatCollator
from ftune.trainers.speed_tasks import NEXT_TOKENS, Task

GRADIENT_LIMITS = {torch.float32: 1e-3, torch.bfloat16: 0.2, torch.float16: 0.2}
"""How far a parameter's gradient may be from the plain one, relative to its norm, by the dtype of products.

Wide for rounding, and still far below what an adapter in another layer's place would make.
"""

FP8_LOSS = 0.05
"""How far, relative to it, the loss in FP8 may be from that of the model's own products: what is broken is further."""

FP8_COSINE = 0.5
"""Least cosine between a matrix's gradient in FP8 and the plain one; that of a product in another's place is about 0.

Emulated on a CPU it was 0.95 at least with Llamas of 2 to 16 layers as they are initialised (0.02), and 0.73 at least
with SmolLM2-135M, a trained model (of its 4-bit GGUF); its loss was 1.7 to 2.7 % off.
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
    task: Task

    @classmethod
    def of(
        cls,
        model: PreTrainedModel,
        rows: list[list[int]],
        dtype: torch.dtype,
        longest: int,
        task: Task = NEXT_TOKENS,
    ) -> "Proof":
        """Of `rows` as one flat batch; the model can compute its task, and has an attention for it."""
        with _nothing_zero(model):
            loss, gradients = _measured(model, rows, dtype, longest, task)
        return cls(rows, dtype, loss, gradients, longest, task)

    def run(self, model: PreTrainedModel) -> None:
        """The rows once more, for whoever watches."""
        _measured(model, self.rows, self.dtype, self.longest, self.task)

    def fault(self, model: PreTrainedModel, *, fp8: bool = False) -> str:
        """What is not as it was, or with `fp8` not near it; empty where all is."""
        with _nothing_zero(model):
            loss, gradients = _measured(model, self.rows, self.dtype, self.longest, self.task)
        if not abs(loss - self.loss) <= (FP8_LOSS if fp8 else self.task.limits[self.dtype]) * abs(self.loss):
            return f"the loss becomes {loss:.6g}, it was {self.loss:.6g}"
        for name, before in self.gradients.items():
            if name not in gradients:
                return f"{name} gets no gradient"
            if why := (_turned if fp8 else partial(_off, GRADIENT_LIMITS[self.dtype]))(gradients[name], before):
                return f"the gradient of {name} is {why}"
        return ""


def _off(limit: float, found: Tensor, before: Tensor) -> str:
    """How far a gradient is from what it was, where that is more than the limit."""
    off = float((found - before).norm() / before.norm().clamp(min=1e-30))
    return "" if off <= limit else f"{off:.1%} off"


def _turned(found: Tensor, before: Tensor) -> str:
    """Whether a matrix's gradient points elsewhere than it did. Those of norms are sums that are mostly rounding."""
    if before.ndim < 2:
        return "" if found.isfinite().all() else "not finite"
    cosine = float((found * before).sum() / (found.norm() * before.norm()).clamp(min=1e-30))
    return "" if cosine >= FP8_COSINE or not before.any() else f"another one (cosine {cosine:.2f})"


def _measured(
    model: PreTrainedModel, rows: Sequence[list[int]], dtype: torch.dtype, longest: int, task: Task
) -> tuple[float, dict[str, Tensor]]:
    """Summed loss, and gradients where they are on; in training's mode, where that draws no random numbers."""
    device, was_training = device_of(model), model.training
    model.train(not _drops(model))
    examples = [{"input_ids": list(row), "labels": list(row)} for row in rows]
    batch = FlatCollator(longest, rounded=device.type == "cuda")(examples)
    batch = {name: value.to(device) if torch.is_tensor(value) else value for name, value in batch.items()}
    model.zero_grad(set_to_none=True)
    try:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            loss = task.loss(model, batch)
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
