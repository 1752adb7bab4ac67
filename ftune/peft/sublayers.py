"""Where a model has its attention and its feed-forward, by the names of its modules alone."""

import re
from collections.abc import Iterable, Sequence
from typing import Literal

from ftune.core.errors import ModelError
from ftune.core.suggest import did_you_mean

Kind = Literal["attention", "feed_forward"]

KNOWN: dict[Kind, tuple[str, ...]] = {
    "attention": (
        *("self_attn", "self_attention", "attn", "attention", "linear_attn", "SelfAttention"),
        *("encoder_attn", "cross_attn", "cross_attention", "crossattention", "EncDecAttention"),
        *("attention.output.dense", "crossattention.output.dense"),
    ),
    "feed_forward": (
        *("mlp", "feed_forward", "ffn", "DenseReluDense", "block_sparse_moe"),
        *("output.dense", "fc2"),
    ),
}
"""Paths below a layer in the usual families.

Where layers have the feed-forward in parts (BERT, OPT), its last projection stands for it, and in BERT, whose attention
module adds the residual itself, so does the last projection of attention.
"""


def choose_sublayers(paths: Iterable[str], kind: Kind, names: Literal["auto"] | Sequence[str]) -> list[str]:
    """Those of the modules `paths` that are sublayers of a kind, by their paths below a layer (which has a number).

    Raises ModelError, which lists what is below a layer, when a given name is not there or none is known.
    """
    modules = list(paths)
    known = set(modules)
    key = f"peft.{kind}_modules"
    wanted = KNOWN[kind] if names == "auto" else names
    found = {name: [path for path in modules if _is_below_a_layer(path, name)] for name in wanted}
    if names == "auto":
        chosen = {path for some in found.values() for path in some if f"{path}.output.dense" not in known}
        if not chosen:
            below = ", ".join(_below_layers(modules)) or "nothing that has a number"
            raise ModelError(
                f"{key}: unknown architecture; name those of the modules below a layer that do it: {below}"
            )
    else:
        if missing := [name for name, some in found.items() if not some]:
            hint = did_you_mean(missing[0], _below_layers(modules))
            raise ModelError(f"{key}: no module '{missing[0]}' below a layer{hint}")
        chosen = {path for some in found.values() for path in some}
    return [path for path in modules if path in chosen]


def layer_of(path: str) -> int:
    """The index of the layer that a sublayer is in: the first number of its path."""
    return next(int(part) for part in path.split(".") if part.isdigit())


def _is_below_a_layer(path: str, name: str) -> bool:
    return path.endswith(name) and re.fullmatch(rf"(.*\.)?\d+\.{re.escape(name)}", path) is not None


def _below_layers(paths: Iterable[str]) -> list[str]:
    """Paths below a layer, once each."""
    return sorted({match[1] for path in paths if (match := re.fullmatch(r"(?:.*\.)?\d+\.(\w*[a-zA-Z]\w*)", path))})
