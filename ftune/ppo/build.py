"""From a model as a PEFT method made it to the actor-critic."""

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from ftune.core.errors import ModelError
from ftune.peft.targets import in_fp32
from ftune.ppo.activations import without_dropout
from ftune.ppo.actor_critic import POLICY, REFERENCE, VALUE, ActorCritic, ReferenceKind, ValueKind
from ftune.ppo.adapters import adapted_layers, add_copy
from ftune.ppo.head import decoder_of

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


def build(
    model: "PreTrainedModel | PeftModel",
    *,
    start_adapter: Path | None = None,
    reference: Literal["auto", "base", "adapter", "copy"] = "auto",
    value: ValueKind = "trunk",
    temperature: float = 1.0,
    detach_value: bool = False,
    with_reference: bool = True,
    reference_dtype: torch.dtype | None = None,
) -> ActorCritic:
    """The actor-critic of a model that a method has wrapped, or of a base model with the adapter of `start_adapter`.

    The reference is the policy as it is now: the base where a new adapter changes nothing yet (`base`), a frozen copy
    of the adapter (`adapter`), or of the whole model (`copy`), in `reference_dtype`. `auto` takes the cheapest: `base`
    for a wrapped model, `adapter` for a start adapter, `copy` for a whole model. A method whose step 0 is not the base
    with the adapter off (PiSSA, OLoRA, LoftQ) needs `adapter`. All dropout is set to 0, and the model to evaluation
    mode. Raises ModelError for what cannot be together.
    """
    if start_adapter is not None:
        model = load_policy(model, start_adapter)
    without_dropout(model)
    model.eval()
    kind = _reference_kind(model, reference, start_adapter is not None) if with_reference else "none"
    if value == "adapter" and not adapted_layers(model):
        raise ModelError("value: an adapter of its own needs a policy that is an adapter in layers; use 'trunk'")
    reference_copy = copy.deepcopy(model).requires_grad_(False) if kind == "copy" else None
    if reference_copy is not None and reference_dtype is not None:
        reference_copy.to(reference_dtype)
    value_copy = copy.deepcopy(decoder_of(model)) if value == "copy" else None
    if kind == "adapter":
        add_copy(model, REFERENCE, trainable=False)
    if value == "adapter":
        add_copy(model, VALUE, trainable=True)
    return ActorCritic(
        model,
        reference=kind,
        value=value,
        reference_copy=reference_copy,
        value_copy=value_copy,
        temperature=temperature,
        detach_value=detach_value,
    )


def load_policy(model: "PreTrainedModel | PeftModel", adapter: Path) -> "PeftModel":
    """The base model with a saved adapter that trains on, in fp32. Raises ModelError for one that does not fit."""
    from peft import PeftModel

    import ftune.peft.tuners  # noqa: F401 - plain peft then loads adapters of ftune's own kinds

    try:
        loaded = PeftModel.from_pretrained(model, str(adapter), adapter_name=POLICY, is_trainable=True)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        cause = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(f"model.adapter: '{adapter}' cannot be put on this base: {cause[0]}") from error
    return in_fp32(loaded)


def _reference_kind(
    model: "PreTrainedModel | PeftModel", wanted: Literal["auto", "base", "adapter", "copy"], started: bool
) -> ReferenceKind:
    """Where the reference comes from. Raises ModelError for a model that cannot provide it."""
    in_layers = bool(adapted_layers(model))
    if wanted == "auto":
        return "copy" if not in_layers else "adapter" if started else "base"
    if wanted != "copy" and not in_layers:
        raise ModelError(
            "memory: 'shared' needs a policy that is an adapter in layers (LoRA, IA3, bottleneck adapters, ...); "
            "use 'memory: separate'"
        )
    return wanted
