"""Decoder layers compiled one by one: all of them share one graph, whatever the number of tokens."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ftune.models.output_head import inner_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def decoder_layers(model: "PreTrainedModel") -> list[nn.Module]:
    """The layers that a model repeats; none where it says of no class, or of several, that it does."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers = [module for module in inner_model(model).modules() if isinstance(module, GradientCheckpointingLayer)]
    return layers if len({type(layer) for layer in layers}) == 1 else []


@contextmanager
def compiled_layers(model: "PreTrainedModel") -> Iterator[None]:
    """The model with compiled decoder layers; behind, they are as they were."""
    layers = decoder_layers(model)
    plain = type(layers[0])
    fast = _compiled_class(plain)
    for layer in layers:
        layer.__class__ = fast
    try:
        yield
    finally:
        for layer in layers:
            layer.__class__ = plain


def _compiled_class(plain: Any) -> type:
    compiled = torch.compile(plain.forward)

    def forward(self: nn.Module, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        tokens = hidden_states.shape[1]
        for given in (hidden_states, *args, *kwargs.values()):
            _let_vary(given, tokens)
        return compiled(self, hidden_states, *args, **kwargs)

    return type(plain.__name__, (plain,), {"forward": forward})


def _let_vary(given: Any, tokens: int) -> None:
    """Tell the compiler which sizes are another in each batch: the tokens, and the rows that borders are of."""
    if isinstance(given, tuple):
        for one in given:
            _let_vary(one, tokens)
    elif isinstance(given, Tensor):
        for dim, size in enumerate(given.shape):
            if size == tokens or given.dtype == torch.int32:
                torch._dynamo.maybe_mark_dynamic(given, dim)
