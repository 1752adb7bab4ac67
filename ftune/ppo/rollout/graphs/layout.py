"""Where the parts of a Llama-like decoder are in a transformers model, and whether our own pass computes the same."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.variants import DoraLinearVariant
from torch import nn

from ftune.core.errors import ModelError
from ftune.ppo.rollout.base import Policy

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
"""`model_type` of models made of RMSNorm, rotary positions, grouped attention and SwiGLU."""

FIXED_ROTARY = ("default", "linear", "llama3", "yarn")
"""Rotary frequencies that do not depend on how long a sequence is."""

ATTENTION, FEED_FORWARD = ("q_proj", "k_proj", "v_proj", "o_proj"), ("gate_proj", "up_proj", "down_proj")


class Shape(NamedTuple):
    """The numbers of a decoder that its weights do not say."""

    heads: int
    kv_heads: int
    head_dim: int
    scaling: float
    """What attention scores are multiplied by."""
    eps: float


@dataclass(frozen=True, slots=True)
class Layout:
    """A decoder's modules, adapters and all."""

    embedding: nn.Embedding
    rotary: nn.Module
    layers: list[Any]
    norm: Any
    head: nn.Module
    shape: Shape
    dtype: torch.dtype
    """Number format of the products."""

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.embedding.weight.device


def read_layout(policy: Policy) -> Layout:
    """The policy's decoder. Raises ModelError where our pass would compute something else than the model."""
    model = policy.model
    base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    reason = _foreign(base, model) or _unlike(base.config, base.model) or _changed(base)
    if reason:
        raise ModelError(f"the graph engine cannot serve this model: {reason}")
    attention = base.model.layers[0].self_attn
    config = base.config
    shape = Shape(
        config.num_attention_heads,
        config.num_key_value_heads,
        attention.head_dim,
        attention.scaling,
        config.rms_norm_eps,
    )
    embedding, head = base.get_input_embeddings(), base.get_output_embeddings()
    dtype = policy.autocast or embedding.weight.dtype
    return Layout(embedding, base.model.rotary_emb, list(base.model.layers), base.model.norm, head, shape, dtype)


def linear_modules(layer: Any) -> dict[str, nn.Module]:
    """The seven linear maps of a decoder layer by name."""
    owners = ((layer.self_attn, ATTENTION), (layer.mlp, FEED_FORWARD))
    return {name: getattr(owner, name) for owner, names in owners for name in names}


def _foreign(base: Any, model: Any) -> str:
    """Why this is no model whose computation we know."""
    kind = getattr(base.config, "model_type", type(base).__name__)
    if kind not in FAMILIES or not type(base).__module__.startswith("transformers.models."):
        return f"it is of type {kind}; served are {', '.join(FAMILIES)}"
    if isinstance(model, PeftModel) and model.active_peft_config.is_prompt_learning:
        return f"{model.active_peft_config.peft_type.value} feeds virtual tokens to it"
    return ""


def _unlike(config: Any, decoder: Any) -> str:
    """Which part of its configuration our pass does not know."""
    if any(kind != "full_attention" for kind in getattr(config, "layer_types", None) or ()):
        return "some of its layers attend to a sliding window only"
    if config.model_type == "mistral" and config.sliding_window is not None:
        return f"it attends to a sliding window of {config.sliding_window} tokens"
    if config.hidden_act != "silu":
        return f"its activation is {config.hidden_act}; served is silu"
    if decoder.rotary_emb.rope_type not in FIXED_ROTARY:
        return f"its rotary positions are of type {decoder.rotary_emb.rope_type}; served: {', '.join(FIXED_ROTARY)}"
    if 2 * decoder.rotary_emb.inv_freq.numel() != decoder.layers[0].self_attn.head_dim:
        return "only a part of each head is rotated"
    return ""


def _changed(base: Any) -> str:
    """What was put on, into or around the model that our pass does not know."""
    if len({parameter.device for parameter in base.parameters()}) > 1:
        return "its parameters are on several devices"
    if any(hasattr(parameter, "ds_id") or hasattr(parameter, "placements") for parameter in base.parameters()):
        return "its parameters are split over processes"
    if type(base.get_input_embeddings()) is not nn.Embedding:
        return "its embeddings are adapted"
    for index, layer in enumerate(base.model.layers):
        linears = linear_modules(layer)
        for name, module in linears.items():
            if reason := _unknown_linear(module):
                return f"{name} of layer {index} {reason}"
        inside = {id(part) for module in linears.values() for part in module.modules()}
        for name, module in layer.named_modules():
            hooked = module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module)
            known = id(module) in inside or type(module).__module__.startswith(("transformers.", "torch.nn."))
            if hooked or not known:
                return f"{name or 'the whole'} of layer {index} is adapted in a way that is unknown here"
    reason = _unknown_linear(base.get_output_embeddings())
    return f"its output head {reason}" if reason else ""


def _unknown_linear(module: Any) -> str:
    """Why the weight of a linear map cannot be told, if so; a quantised one is told by `weights`."""
    if not isinstance(module, LoraLayer):
        return "" if isinstance(module, nn.Linear) else f"is a {type(module).__module__}.{type(module).__name__}"
    if module.merged:
        return "holds a merged adapter"
    if not isinstance(module.base_layer, nn.Linear):
        return f"is a {type(module.base_layer).__name__} with an adapter"
    for name in module.active_adapters:
        variant = module.lora_variant.get(name) if name in module.lora_A else None
        if variant is not None and not isinstance(variant, DoraLinearVariant):
            return f"has an adapter of the kind {type(variant).__name__}"
        if name in module.lora_B and module.lora_B[name].bias is not None:
            return "has an adapter with a bias"
    return ""
