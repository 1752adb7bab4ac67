"""Plain LoRA added to a weight a few rows at a time (arXiv:2106.09685): W' = W + s B A.

peft computes B A and s B A as whole matrices, each in memory that the system has to find and clear first, which takes
several times as long as the products and sums. A few rows stay in the processor's cache, and in the same memory.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.lora import Linear
from torch import nn

VALUES = 2**19
"""Computed at a time; 2 MiB in fp32, twice."""


def is_plain(module: Any) -> bool:
    """Whether a module that peft has wrapped is a linear map without bias that becomes W + s B A, and no more."""
    if (type(module), type(getattr(module, "base_layer", None))) != (Linear, nn.Linear):
        return False
    return bool(
        module.base_layer.bias is None
        and not module.fan_in_fan_out
        and not module.lora_variant
        and not any(module.lora_bias.values())
        and module.active_adapters == list(module.lora_A) == list(module.lora_B)
    )


@torch.no_grad()
def with_update(value: torch.Tensor, module: Any, dtype: torch.dtype) -> torch.Tensor:
    """`value` (out, in) with the update of a plain module's only adapter: computed in fp32, rounded once to `dtype`.

    It is `value` itself, changed, where that has the dtype already.
    """
    (adapter,) = module.active_adapters
    factor_a, factor_b = module.lora_A[adapter].weight.float(), module.lora_B[adapter].weight.float()
    result = value if value.dtype == dtype else torch.empty_like(value, dtype=dtype)
    rows = max(1, VALUES // value.shape[1])
    updates, sums = torch.empty(2, rows, value.shape[1])
    parts = zip(torch.split(value, rows), torch.split(factor_b, rows), torch.split(result, rows), strict=True)
    with _one_thread():
        for part, of_b, into in parts:
            update, total = updates[: len(part)], sums[: len(part)]
            torch.mm(of_b, factor_a, out=update)
            total.copy_(part).add_(update.mul_(module.scaling[adapter]))  # in the order that peft has it
            into.copy_(total)
    return result


@contextmanager
def _one_thread() -> Iterator[None]:
    """Several would wait for each other after each small step: measured 2 to 6 times as long on 2 busy cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
