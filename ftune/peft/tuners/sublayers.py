"""A model's sublayers, checked to return what an adapter can change."""

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from ftune.core.errors import ModelError
from ftune.peft.sublayers import Kind, choose_sublayers

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def find_sublayers(model: "PreTrainedModel", kind: Kind, names: Literal["auto"] | Sequence[str]) -> list[str]:
    """Dotted paths of the model's sublayers of a kind, by their paths below a layer (which has a number).

    Raises ModelError, which lists what is below a layer, when a given name is not there or none is known.
    """
    modules = dict(model.named_modules())
    paths = choose_sublayers(modules, kind, names)
    for path in paths:
        _check(path, modules[path], model, f"peft.{kind}_modules")
    return paths


def _check(path: str, module: object, model: "PreTrainedModel", key: str) -> None:
    """Raises ModelError when what the module returns is not the sublayer's part of the residual stream."""
    hidden = model.config.get_text_config().hidden_size
    width = getattr(module, "out_features", hidden)
    if width != hidden:
        raise ModelError(f"{key}: '{path}' writes {width} values a token; name one that writes the model's {hidden}")
    if "residual" in inspect.signature(type(module).forward).parameters:  # type: ignore[attr-defined]
        raise ModelError(
            f"{key}: '{path}' adds the residual itself, and an adapter goes before that; "
            "name its last projection, such as 'mlp.dense_4h_to_h'"
        )
