"""Proof that what lies on the disk is the model that was trained: it is loaded anew and computes the same."""

import gc
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ftune.backends.engines.sharding import device_of
from ftune.core.errors import ModelError
from ftune.core.memory import free_memory

ROWS, TOKENS = 2, 64
"""How many rows are computed, and how much of each."""

SPARE = 1.3
"""Room for a second model and its activations, as a multiple of its weights."""


@dataclass(frozen=True, slots=True)
class Computed:
    """What a model computes of a few rows: its logits in fp32, one tensor a row."""

    logits: list[torch.Tensor]

    def differ(self, other: "Computed") -> float:
        """The largest difference, as a share of the largest logit."""
        largest = max(float(row.abs().max()) for row in self.logits)
        pairs = zip(self.logits, other.logits, strict=True)
        return max(float((one - two).abs().max()) for one, two in pairs) / max(largest, 1e-6)


@torch.no_grad()
def computed(model: torch.nn.Module, rows: Sequence[Sequence[int]], dtype: torch.dtype) -> Computed:
    """Each of the first rows alone, in `dtype` as in training. All processes call it: the model may be split."""
    device = device_of(model)
    was_training = model.training
    model.eval()
    logits = []
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        for row in rows[:ROWS]:
            ids = torch.tensor([list(row[:TOKENS])], device=device)
            logits.append(model(input_ids=ids, use_cache=False).logits.float().cpu())
    model.train(was_training)
    return Computed(logits)


def check_same(trained: Computed, loaded: Computed, dtype: torch.dtype) -> float:
    """How much they differ. Raises ModelError where it is more than rounding makes."""
    difference = trained.differ(loaded)
    limit = 1e-3 if dtype == torch.float32 else 0.05
    if not difference <= limit:  # NaN is refused too
        raise ModelError(
            f"what was saved is not what was trained: loaded again, its logits differ by {difference:.2g} of the "
            f"largest (rounding makes up to {limit:g})"
        )
    return difference


def room_for(model: torch.nn.Module) -> str | None:
    """A device that has room for a second model of this size; None where neither GPU nor CPU has."""
    gc.collect()  # optimiser and gradients of the training that is over
    need = SPARE * sum(_bytes(value) for value in model.parameters())
    device = device_of(model)
    if device.type == "cuda":
        torch.cuda.empty_cache()
        if need < torch.cuda.mem_get_info(device)[0]:
            return str(device)
    return "cpu" if need < free_memory() else None


def _bytes(parameter: torch.nn.Parameter) -> int:
    numel = int(getattr(parameter, "ds_numel", parameter.numel()))  # DeepSpeed leaves an empty one behind
    return numel * parameter.element_size()
