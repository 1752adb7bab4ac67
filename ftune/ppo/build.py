"""From a model as a PEFT method made it to the actor-critic."""

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from ftune.core.errors import ModelError
from ftune.models.output_head import decoder_of
from ftune.peft.adapters import loading_adapter
from ftune.peft.targets import in_fp32
from ftune.ppo.actor_critic import POLICY, REFERENCE, VALUE, ActorCritic, ReferenceKind, ValueKind
from ftune.ppo.adapters import adapted_layers, adapter_scope, add_copy
from ftune.ppo.head import hidden_states

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

PROBE_TOKENS = 32


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

    The reference is the policy as it is now: the base where the adapter changes nothing yet (`base`), a frozen copy of
    the adapter (`adapter`), or of the whole model (`copy`), in `reference_dtype`. `auto` takes the first of these that
    is right. All dropout is set to 0, and the model to evaluation mode. Raises ModelError for what cannot be together.
    """
    if start_adapter is not None:
        model = load_policy(model, start_adapter)
    model.eval()
    kind = _reference_kind(model, reference) if with_reference else "none"
    _check_value(model, value)
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

    try:
        with loading_adapter(model):
            loaded = PeftModel.from_pretrained(model, str(adapter), adapter_name=POLICY, is_trainable=True)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        cause = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(f"model.adapter: '{adapter}' cannot be put on this base: {cause[0]}") from error
    return in_fp32(loaded)


def _reference_kind(
    model: "PreTrainedModel | PeftModel", wanted: Literal["auto", "base", "adapter", "copy"]
) -> ReferenceKind:
    """Where the reference comes from. Raises ModelError for a model that cannot provide it."""
    in_layers = bool(adapted_layers(model))
    if wanted == "auto":
        return "copy" if not in_layers else "base" if _is_as_base(model) else "adapter"
    if wanted != "copy" and not in_layers:
        raise ModelError(
            "memory: 'shared' needs a policy that is an adapter in layers (LoRA, IA3, bottleneck adapters, ...); "
            "use 'memory: separate'"
        )
    if wanted == "base" and not _is_as_base(model):
        raise ModelError("reference: 'base' is not what the policy starts as; use 'adapter'")
    return wanted


@torch.no_grad()
def _is_as_base(model: "PreTrainedModel | PeftModel") -> bool:
    """Whether the model computes the same without its adapter, which PiSSA and its kin do not."""
    vocabulary = model.get_input_embeddings().weight.shape[0]
    ids_BS = torch.arange(PROBE_TOKENS, device=model.device)[None] * 7919 % vocabulary
    with adapter_scope(model, None):
        off = hidden_states(model, ids_BS)
    with adapter_scope(model, POLICY):
        return torch.equal(off, hidden_states(model, ids_BS))


def _check_value(model: "PreTrainedModel | PeftModel", value: ValueKind) -> None:
    """Raises ModelError for a backbone of the value that this policy cannot have."""
    if value == "adapter" and not adapted_layers(model):
        raise ModelError("value: an adapter of its own needs a policy that is an adapter in layers; use 'trunk'")
    if value == "copy" and hasattr(model, "peft_config"):
        raise ModelError("value: a copy of the backbone is for full fine-tuning; use 'trunk' or 'adapter'")
