"""peft's own methods put on a model, with peft's complaints in the words of the recipe."""

import re
from collections.abc import Iterable, Iterator
from math import gcd
from typing import TYPE_CHECKING, Any

from ftune.core.errors import ModelError
from ftune.peft.decomposed import same_decompositions
from ftune.peft.targets import (
    check_layers,
    check_modules,
    check_patterns,
    chosen_linears,
    in_fp32,
    late_forward,
    linear_names,
    task_type,
)

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

Keys = dict[str, Any]

BLOCKS = {
    "boft": ("boft_block_size", "in"),
    "c3a": ("block_size", "both"),
    "gralora": ("gralora_k", "both"),
    "oft": ("oft_block_size", "in"),
    "road": ("group_size", "out"),
    "vblora": ("vector_length", "both"),
}
"""By `type`: the key that has to divide the widths of the adapted layers, and which of the widths."""

VALUES = ("v", "v_proj", "v_lin", "value")
"""Names of the layers that make attention's values."""


def wrapped(model: "PreTrainedModel", name: str, config_class: str, keys: Keys) -> "PeftModel":
    """`model` with the method `name` on it, whose keys have these values; what trains is in fp32.

    Raises ModelError, with the key if there is one to name, when the model cannot have it.
    """
    import peft

    arguments = _arguments(model, name, keys)
    for key in keys:
        if key.endswith("_pattern"):
            check_patterns(model, key, keys[key] or ())
    check_modules(model, keys.get("modules_to_save") or ())
    if "target_modules" in keys:
        _check_blocks(model, name, keys, arguments["target_modules"])
    try:
        config = getattr(peft, config_class)(task_type=task_type(model), **arguments)
        with same_decompositions():
            made = in_fp32(peft.get_peft_model(model, config))
    except (ValueError, TypeError, AssertionError, NotImplementedError, AttributeError, KeyError) as error:
        raise ModelError(_told(name, keys, str(error))) from error
    if name == "shadow":
        _freeze_unread(made)
    return late_forward(made) if name == "adaption_prompt" else made


def _freeze_unread(model: "PeftModel") -> None:
    """Behind the last layer the shadow is read by its own loss alone, which is not computed: it would get no gradient.

    Nor would the head that a classifier has for it. DDP waits for each gradient.
    """
    from peft.tuners.shadow.layers import ShadowLayer

    for name, parameter in model.named_parameters():
        if ".shadow_head." in name:
            parameter.requires_grad_(False)
    last = [module for module in model.modules() if isinstance(module, ShadowLayer)][-1]
    last.shadow_update_transform.requires_grad_(False)
    last.shadow_update_gate.requires_grad_(False)


def _arguments(model: "PreTrainedModel", name: str, keys: Keys) -> Keys:
    """The keys as peft's config class wants them."""
    arguments = dict(keys)
    if "target_modules" in keys:
        arguments["target_modules"] = chosen_linears(model, keys["target_modules"])
    if "layers" in keys:
        check_layers(model, keys["layers"])
        arguments["layers_to_transform"] = arguments.pop("layers")
    if name == "beft" and keys["target_modules"] == "auto":  # the paper's place for biases
        arguments["target_modules"] = [leaf for leaf in arguments["target_modules"] if leaf in VALUES]
        if not arguments["target_modules"]:
            raise ModelError(
                "peft.target_modules: name the layers that make attention's values; 'auto' knows none here"
            )
    elif name == "ln_tuning":
        arguments["target_modules"] = _norms(model)
    elif name == "shadow":
        arguments["auxiliary_loss_weight"] = 0.0  # no key: TRL computes the loss itself, past the model's
    elif name == "trainable_tokens":
        _check_tokens(model, keys["token_indices"])
        head = model.get_output_embeddings()
        if head is not None and head.weight is model.get_input_embeddings().weight:
            raise ModelError(
                "peft.type: trainable_tokens would train the head too, which shares its weights with the embeddings "
                "here, and TRL computes the loss past it; use 'lora' with 'modules_to_save: [embed_tokens]'"
            )
    return arguments


def _norms(model: "PreTrainedModel") -> list[str]:
    """By the last part of their names, or by all of it where something else has the same (ModernBERT's first layer)."""
    named = {name: type(module).__name__.endswith("Norm") for name, module in model.named_modules()}
    paths = [name for name, is_norm in named.items() if is_norm]
    if not paths:
        raise ModelError("peft.type: ln_tuning trains layer norms, and this model has none")
    leaves = sorted({path.rpartition(".")[2] for path in paths})
    others = {name.rpartition(".")[2] for name, is_norm in named.items() if not is_norm}
    return paths if others & set(leaves) else leaves


def _check_tokens(model: "PreTrainedModel", tokens: Iterable[int]) -> None:
    count = model.get_input_embeddings().num_embeddings
    for token in tokens:
        if not 0 <= token < count:
            raise ModelError(f"peft.token_indices: {token} is no token of the model, which has 0 to {count - 1}")


def _check_blocks(model: "PreTrainedModel", name: str, keys: Keys, targets: list[str]) -> None:
    """Block sizes have to divide widths; peft would take another size (OFT), or say only that one does not fit."""
    key, side = BLOCKS.get(name, ("", ""))
    if not keys.get(key) or keys.get("block_size_pattern"):
        return
    widths = {path: width for path, width in _widths(model, side) if path.endswith(tuple(targets))}
    common = gcd(*widths.values())
    for path, width in widths.items():
        if width % keys[key]:
            fit = ", ".join(str(size) for size in range(2, common + 1) if common % size == 0)
            raise ModelError(
                f"peft.{key}: {keys[key]} does not divide the width {width} of {path}; what fits all: {fit}"
            )


def _widths(model: "PreTrainedModel", side: str) -> Iterator[tuple[str, int]]:
    """Each linear layer with the greatest common divisor of the widths that matter."""
    modules = dict(model.named_modules())
    for path in linear_names(model):
        layer: Any = modules[path]
        rows, columns = (layer.nx, layer.nf) if hasattr(layer, "nx") else (layer.in_features, layer.out_features)
        yield path, {"in": rows, "out": columns, "both": gcd(rows, columns)}[side]


def _told(name: str, keys: Iterable[str], message: str) -> str:
    """What peft says, behind the key that it speaks of."""
    text = " ".join(message.split())
    spoken = re.sub(r"\brank\b", "r", text)
    key = next((key for key in sorted(keys, key=len, reverse=True) if re.search(rf"\b{key}\b", spoken)), "")
    return f"peft.{key}: {text}" if key else f"peft.type: {name} does not go on this model: {text}"
