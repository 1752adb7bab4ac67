"""Products of decoder layers in 8 bit floating point, by torchao: the one part of speed that changes the result.

Weights, inputs and the gradients of outputs are scaled and rounded for each product (arXiv:2209.05433), and stay as
they are elsewhere: what trains, what is saved and what the optimiser sees are the model's own parameters.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from torch import nn

from ftune.speed.compiled import decoder_layers

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Scales = Literal["tensorwise", "rowwise"]
"""What has a scale of its own: a whole tensor, or each row of it."""

MULTIPLE = 16
"""What a GPU's product in FP8 wants both widths of a weight to be a multiple of, and the tokens of a batch too."""


def convertible(model: "PreTrainedModel") -> list[tuple[nn.Module, str, nn.Module]]:
    """The linear layers in the decoder layers whose widths suit: each with its parent, and its name there."""
    return [
        (parent, name, child)
        for layer in decoder_layers(model)
        for parent in layer.modules()
        for name, child in parent.named_children()
        if _suits(child)
    ]


def _suits(module: nn.Module) -> bool:
    return type(module) is nn.Linear and module.in_features % MULTIPLE == module.out_features % MULTIPLE == 0


@contextmanager
def fp8_products(model: "PreTrainedModel", scales: Scales, *, emulated: bool = False) -> Iterator[None]:
    """The model with FP8 products, before its layers are compiled; behind, it has its own linear layers again.

    Parameters are the same objects all the time. Those `emulated` give the same numbers slowly, on any device.
    """
    from torchao.float8 import Float8LinearConfig, convert_to_float8_training

    config = replace(Float8LinearConfig.from_recipe_name(scales), emulate=emulated)
    before = convertible(model)
    try:
        for layer in decoder_layers(model):
            convert_to_float8_training(layer, config=config, module_filter_fn=lambda module, _: _suits(module))
        yield
    finally:
        for parent, name, linear in before:
            setattr(parent, name, linear)
