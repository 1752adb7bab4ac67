"""Walks over all modules of a model, which transformers takes in each step while a GPU waits."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from ftune.backends.engines.sharding import is_split


@contextmanager
def walked_once(model: nn.Module) -> Iterator[None]:
    """Inside, `model.train()` does nothing where that is its mode, and `model.zero_grad()` knows what trains.

    With adapters on a model of 1B each of them passes a thousand modules, which takes milliseconds. Nobody may change
    the mode of a part by itself meanwhile, nor what trains.
    """
    known: bool | None = None
    split = is_split(model)  # then parts come and go
    trained = [value for value in model.parameters() if value.requires_grad]

    def train(mode: bool = True) -> nn.Module:
        nonlocal known
        if mode != known:
            type(model).train(model, mode)
            known = mode
        return model

    def zero_grad(set_to_none: bool = True) -> None:
        if not set_to_none or split:
            type(model).zero_grad(model, set_to_none)
            return
        for value in trained:
            value.grad = None

    model.train, model.zero_grad = train, zero_grad  # type: ignore[method-assign]
    try:
        yield
    finally:
        del model.train, model.zero_grad
