"""What decoder layers do, operation by operation: which are attention, which are products, which write in place."""

from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "linear", "_scaled_mm")
"""Of PyTorch's operations, those that multiply matrices."""


@cache
def is_attention(operation: Any) -> bool:
    """Whether an operation is attention as a whole: PyTorch's for rows of one or of all lengths, flash-attn's."""
    name = str(operation)
    return "attention" in name or "attn" in name


@cache
def is_product(operation: Any) -> bool:
    """Whether an operation is a matrix product."""
    return str(operation).split(".")[:2] in (["aten", name] for name in PRODUCTS)


class Look(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Looks at the operations of a layer."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.attention = False
        """Whether there was attention."""
        self.in_place = False
        """Whether something has written into attention's result, or into that of a product ahead of it."""
        self._results: list[Tensor] = []

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """One operation."""
        if getattr(operation, "_schema", None) is not None and operation._schema.is_mutable:
            self.in_place |= torch.is_tensor(args[0]) and any(_same_storage(one, args[0]) for one in self._results)
        made = operation(*args, **(kwargs or {}))
        self.attention |= is_attention(operation)
        if is_attention(operation) or (is_product(operation) and not self.attention):
            self._results += [one for one in tree_leaves(made) if torch.is_tensor(one)]
        return made


def _same_storage(one: Tensor, other: Tensor) -> bool:
    return one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()


@torch.no_grad()
def looked_at(model: "PreTrainedModel", layers: list[nn.Module], batch: dict[str, Any]) -> list[Look]:
    """What each layer does with a batch; the model draws no random numbers for it."""
    looks: list[Look] = []

    def begin(*_: Any) -> None:
        looks.append(Look())
        looks[-1].__enter__()  # type: ignore[no-untyped-call]

    def end(*_: Any) -> None:
        looks[-1].__exit__(None, None, None)  # type: ignore[no-untyped-call]

    was_training = model.training
    model.eval()
    hooks = [one.register_forward_pre_hook(begin) for one in layers]
    hooks += [one.register_forward_hook(end, always_call=True) for one in layers]
    try:
        model(**batch, use_cache=False)
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    return looks
