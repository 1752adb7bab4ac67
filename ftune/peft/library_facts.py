"""What is known of peft's own methods beside their keys: what they do not go with, and how fast they learn."""

from collections.abc import Iterator
from typing import Any

from ftune.peft.base import IN_PLACE, Feature
from ftune.peft.virtual_tokens import KEYS_LIMITS

_NEEDS_TASKS = (
    "it wants a task's number with every row, which rows do not have; "
    "use 'lora' once for each task, or 'adapter_fusion' to combine what they learned"
)

REFUSED: dict[str, str] = {
    "cpt": "it has a loss of its own, which TRL computes past; use 'peft: {type: prompt, init: text}'",
    "multitask_prompt_tuning": _NEEDS_TASKS,
    "poly": _NEEDS_TASKS,
    "xlora": (
        "peft 0.21 saves nothing of what X-LoRA trains, so it would be lost; "
        "use 'adapter_fusion' to combine trained adapters"
    ),
}
"""Methods of peft that cannot be trained from a recipe: why, and what to do instead."""

PACKAGES = {"adamss": ("sklearn", "scikit-learn")}
"""The module, and the package that has it, that a method needs beside peft."""

_NO_QUANTISATION = "'model.quantization: none', or 'peft: lora' (QLoRA)"


def _no(way: str, why: str) -> str:
    return f"it does not work on {way} weights: {why}; use {_NO_QUANTISATION}"


_QUANTISED: tuple[Feature, ...] = ("nf4", "int8")
_UNPACKED: dict[Feature, str] = {way: _no(way, "it computes with the base's weights themselves") for way in _QUANTISED}
_SHAPES: dict[Feature, str] = {"nf4": _no("nf4", "it takes its shapes from the weights, which are packed")}
_IN_PLACE = _no("int8", "it changes their products in place, which their gradient forbids on a GPU")
_GRADIENTLESS: dict[Feature, str] = {way: _no(way, "peft gives it no gradient there") for way in _QUANTISED}
_RANDOM = "it starts from a random update; use 'peft: lora' to start as the base"

_SHARED: dict[Feature, str] = {
    "fsdp": "its layers share parameters, and FSDP2 splits each layer by itself; use 'backend: zero' or 'backend: ddp'"
}

LIMITS: dict[str, dict[Feature, str]] = {
    "adamss": _UNPACKED,
    "adaption_prompt": {
        "merge": "its prompts are read by attention and are no update of a weight; load the adapter with peft",
        "classification": "peft trains no new head beside it; use 'peft: lora'",
        "encoder_decoder": "peft knows it for Llama, Mistral and GPT-2 only; use 'peft: lora'",
    },
    "beft": {"merge": "its biases have no place in layers without biases; use 'peft: {type: bitfit, add: true}'"},
    "c3a": {"int8": _IN_PLACE, "selective_checkpointing": IN_PLACE, "step_zero": f"{_RANDOM}, or 'init_weights: true'"},
    "cartridge": KEYS_LIMITS,
    "deft": _UNPACKED,
    "delora": _UNPACKED,
    "fourierft": {"step_zero": f"{_RANDOM}, or 'init_weights: true'"},
    "frod": _UNPACKED,
    "glora": _UNPACKED,
    "gralora": {"int8": _IN_PLACE, "selective_checkpointing": IN_PLACE},
    "hra": _UNPACKED,
    "lily": {
        **_SHARED,
        "packing": "its router looks at the whole row, so packed rows would choose together; use 'data.packing: false'",
        "merge": "its router chooses anew for every row, so there is no one update; load the adapter with peft",
    },
    "loha": _SHAPES,
    "lokr": _SHAPES,
    "osf": _UNPACKED
    | {
        "fsdp": "it projects the gradients of whole matrices, of which FSDP2 leaves a process a part, and learns "
        "something else without a word; use 'backend: zero' or 'backend: ddp'"
    },
    "peanut": _SHAPES,
    "psoft": _UNPACKED,
    "shadow": {
        "merge": "its shadow network runs beside the model and is no update of a weight; load the adapter with peft",
        "encoder_decoder": "peft has it for decoders only; use 'peft: lora'",
    },
    "supertuning": _UNPACKED,
    "tinylora": _UNPACKED | _SHARED,
    "trainable_tokens": {"classification": "peft trains no new head beside it; use 'peft: lora'"},
    "unilora": {
        **_GRADIENTLESS,
        "step_zero": _RANDOM,
        **_SHARED,
    },
    "vblora": {"step_zero": _RANDOM, **_SHARED},
}
"""By `type`: what does not work, why, and the way out. Everything else is tested to work."""

LEARNING_RATES: dict[str, float] = {
    # found with scripts/benchmarks/peft_methods.py on a 135M model, the better of two or three rates
    "fourierft": 5e-2,
    "hra": 5e-3,
    "loha": 2e-3,
    **dict.fromkeys(("vera", "pvera"), 3e-2),
    # what peft's own comparison of methods takes (method_comparison/MetaMathQA in its repository)
    "adaption_prompt": 5e-3,
    "c3a": 0.3,
    "hira": 4.5e-3,
    "lokr": 3e-3,
    "road": 1e-3,
    "unilora": 2e-3,
    "vblora": 5e-4,
    # virtual tokens, as with the other methods that have some
    "cartridge": 1e-2,
}
"""Where a method learns at another rate than LoRA."""


def impossible(name: str, values: dict[str, Any]) -> Iterator[str]:
    """What peft would refuse, or get wrong, of values that are each allowed."""
    if name == "oft" and bool(values["r"]) == bool(values["oft_block_size"]):
        yield "oft_block_size: give the size of the blocks or their number 'r', and 0 for the other"
    elif name == "boft" and bool(values["boft_block_num"]) == bool(values["boft_block_size"]):
        yield "boft_block_size: give the size of the blocks or their number 'boft_block_num', and 0 for the other"
    elif name == "gralora" and values["r"] % values["gralora_k"]:
        yield f"gralora_k: {values['gralora_k']} does not divide r, which is {values['r']}"
    elif name == "cartridge" and values["num_frozen_tokens"] >= values["num_virtual_tokens"]:
        yield "num_frozen_tokens: all virtual tokens would be frozen; keep fewer of them"
    elif name == "randlora" and values["sparse"] and values["very_sparse"]:
        yield "very_sparse: the bases are sparse or very sparse; switch one of both off"
