"""What some models ask of attention that kernels for flat batches have not."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn


class UnsupportedError(Exception):
    """An attention cannot compute what the model asks for."""


EXTRAS = {"softcap": "caps its scores", "s_aux": "has attention sinks", "position_bias": "adds a bias to its scores"}


def refuse_extras(
    module: nn.Module, attention_mask: Tensor | None, borders: Tensor | None, extras: Mapping[str, Any]
) -> Tensor:
    """The borders of rows, where nothing else is asked for than causal attention within them.

    Raises UnsupportedError otherwise, also where a model does not pass the borders on to its attention.
    """
    for name, what in EXTRAS.items():
        if extras.get(name) is not None:
            raise UnsupportedError(f"the model {what}")
    causal = extras.get("is_causal")
    if not (getattr(module, "is_causal", True) if causal is None else causal):
        raise UnsupportedError("the model's attention is not causal")
    if attention_mask is not None:
        raise UnsupportedError("the model makes a mask of its own")
    if borders is None:
        raise UnsupportedError("the model does not tell its attention where rows begin")
    return borders
