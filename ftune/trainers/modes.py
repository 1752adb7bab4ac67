"""Training and evaluation mode of a whole model, which transformers sets before each pass."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def mode_known(model: nn.Module) -> Iterator[None]:
    """Inside, `model.train()` does nothing where that is the model's mode, instead of walking over all its modules.

    With adapters on a model of 1B that is a thousand modules and some milliseconds, in which a GPU has nothing to do.
    Nobody may change the mode of a part by itself meanwhile.
    """
    known: bool | None = None

    def train(mode: bool = True) -> nn.Module:
        nonlocal known
        if mode != known:
            type(model).train(model, mode)
            known = mode
        return model

    model.train = train  # type: ignore[method-assign]
    try:
        yield
    finally:
        del model.train
