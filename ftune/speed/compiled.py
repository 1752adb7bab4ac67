"""Decoder layers compiled one by one: all of them share one graph, whatever the number of tokens."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ftune.core.kernels import keep_kernels
from ftune.models.output_head import inner_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel

GRAPHS = 64
"""Most graphs of a layer, whose adapters may differ in rank; what is more is not compiled."""


def decoder_layers(model: "PreTrainedModel") -> list[nn.Module]:
    """The layers that a model repeats; none where they are not of one class."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers = [module for module in inner_model(model).modules() if isinstance(module, GradientCheckpointingLayer)]
    return layers if len({type(layer) for layer in layers}) == 1 else []


@contextmanager
def of_class(layers: list[nn.Module], kind: type) -> Iterator[None]:
    """Layers of one class as of another, which is a subclass; behind, they are as they were."""
    plain: Any = type(layers[0])
    for layer in layers:
        layer.__class__ = kind
    try:
        yield
    finally:
        for layer in layers:
            layer.__class__ = plain


@contextmanager
def compiled_layers(model: "PreTrainedModel") -> Iterator[None]:
    """The model with compiled decoder layers; behind, they are as they were."""
    keep_kernels()
    layers = decoder_layers(model)
    plain: Any = type(layers[0])
    hook = inner_model(model).get_input_embeddings().register_forward_hook(_with_gradient)
    with hook, of_class(layers, _compiled_class(plain)), torch._dynamo.config.patch(recompile_limit=GRAPHS):
        yield


@cache
def _compiled_class(plain: Any) -> type:
    """A subclass, which transformers gives activation checkpointing around what is compiled."""
    compiled: Any = torch.compile(plain.forward)

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


def _with_gradient(_: nn.Module, __: tuple[Any, ...], embedded: Tensor) -> None:
    """The first layer is like all others, so that one graph does for it too; its own gradient is little work."""
    if torch.is_grad_enabled() and not embedded.requires_grad:
        embedded.requires_grad_(True)
