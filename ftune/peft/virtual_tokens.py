"""What methods share that put virtual tokens before the text: limits, what they start as, where padding goes."""

import inspect
from types import MethodType
from typing import TYPE_CHECKING, Any

from ftune.core.errors import ModelError
from ftune.peft.base import Feature, Material
from ftune.peft.places import copies
from ftune.peft.targets import in_fp32, sizes, task_type
from ftune.plan.adapter import Adapter
from ftune.plan.shape import ModelShape

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import Tensor
    from torch.nn import Module
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

COMMON_TOKENS = 5000

LIMITS: dict[Feature, str] = {
    "packing": "virtual tokens go before one row, so packed rows would have to share them; use 'data.packing: false'",
    "step_zero": "virtual tokens are read by every token from the first step on; use 'peft: lora' to start as the base",
    "merge": "virtual tokens are inputs, not weights, so there is nothing to add them to; load the adapter with peft",
}
"""What no method with virtual tokens goes together with."""

_NO_CACHE = (
    "transformers 5 drops the cache that holds the prefix while it checkpoints; lower 'batch.micro_batch_size', or use "
    "'peft: prompt'"
)

KEYS_LIMITS: dict[Feature, str] = {
    **LIMITS,
    "activation_checkpointing": _NO_CACHE,
    "selective_checkpointing": _NO_CACHE,
    "encoder_decoder": "peft 0.21 gives a prefix to the decoder alone, and half of it to no layer; "
    "use 'peft: prompt' or 'peft: lora'",
}
"""The same where they are keys and values of each layer."""


def common_tokens(count: int, vocabulary: int, tokenizer: "PreTrainedTokenizerBase | None") -> list[int]:
    """Ids of tokens drawn from the most frequent ones, as in section 3.2 of prompt tuning (arXiv:2104.08691)."""
    import torch

    special = set(tokenizer.all_special_ids) if tokenizer else set()
    # tokenizers number their tokens in the order of their merges or likelihood: the most frequent come first
    common = [token for token in range(vocabulary) if token not in special][:COMMON_TOKENS]
    return [common[place] for place in torch.randint(len(common), (count,)).tolist()]


def prompts(shape: ModelShape, virtual_tokens: int, parameters: int) -> Adapter:
    """What trains where embedded virtual tokens do, and a classifier's head."""
    return Adapter(parameters=parameters + _head(shape), virtual_tokens=virtual_tokens)


def prefixes(shape: ModelShape, virtual_tokens: int, hidden_size: int | None, frozen_tokens: int = 0) -> Adapter:
    """What trains where keys and values of each layer do, made by an MLP of that width where one is given.

    peft 0.21 feeds that MLP with vectors as wide as the keys of a layer, not as the model.
    """
    width = shape.kv_width
    both = 2 * shape.layers * width
    own = (virtual_tokens - frozen_tokens) * both
    if hidden_size is not None:
        own = virtual_tokens * width + (width + 1) * hidden_size + (hidden_size + 1) * both
    return Adapter(parameters=own + _head(shape), frozen=frozen_tokens * both, prefix_tokens=virtual_tokens)


def _head(shape: ModelShape) -> int:
    return sum(part.parameters for part in copies(shape).values())


def with_prefix(
    model: "PreTrainedModel", virtual_tokens: int, hidden_size: int | None, material: Material
) -> "PeftModel":
    """The model with trained keys and values in every layer, made by an MLP of that width where one is given.

    Without an MLP they start as the model's own for common tokens (prefix tuning, section 7.4), or as small noise where
    it keeps none. Standard normal ones, as peft 0.21 starts, took the loss of SmolLM2-135M from 1.8 to 7.7.
    """
    import torch
    from peft import PrefixTuningConfig, get_peft_model

    _check_cache(model)
    config = PrefixTuningConfig(
        task_type=task_type(model),
        num_virtual_tokens=virtual_tokens,
        **sizes(model),
        prefix_projection=hidden_size is not None,
        encoder_hidden_size=hidden_size,
    )
    wrapped = get_peft_model(model, config)
    if hidden_size is None:
        prefix = wrapped.prompt_encoder["default"].embedding.weight
        own = _keys_and_values(
            model, common_tokens(virtual_tokens, model.config.get_text_config().vocab_size, material.tokenizer)
        )
        with torch.no_grad():
            if own is not None and own.shape == prefix.shape:
                prefix.copy_(own)
            else:  # an encoder without a cache, or layers of different widths
                prefix.mul_(model.config.get_text_config().initializer_range)
    return in_fp32(wrapped)


def _check_cache(model: "PreTrainedModel") -> None:
    """Raises ModelError where neither the model nor what is below its head takes keys and values, as peft 0.21 asks."""
    takes = (inspect.signature(part.forward).parameters for part in (model, model.base_model))
    if not any("past_key_values" in names for names in takes):
        raise ModelError(
            f"peft.type: a prefix is keys and values before a row, and '{type(model).__name__}' takes none; "
            "use 'peft: prompt' or 'peft: lora'"
        )


def _keys_and_values(model: "PreTrainedModel", ids: list[int]) -> "Tensor | None":
    """What the model caches for a row, shape (tokens, 2 x layers x width): layer by layer, keys before values."""
    import torch

    with torch.no_grad():
        cache = getattr(model(input_ids=torch.tensor([ids], device=model.device)), "past_key_values", None)
    if cache is None or len({layer.keys.shape for layer in cache.layers}) != 1:
        return None
    both = torch.stack([states[0] for layer in cache.layers for states in (layer.keys, layer.values)])
    return both.permute(2, 0, 1, 3).flatten(1)


def padding_goes_first(model: "PeftModel") -> "PeftModel":
    """The model with a row's padding kept away from its virtual tokens, where a padded batch would go wrong.

    peft 0.21 joins virtual tokens and row as they are and drops position ids. A row padded on the left, as for
    generation, then reads its virtual tokens from further away the more padding it has; and a classifier, which takes
    the last place when it gets embeddings (transformers 5), takes the padding of a row padded on the right. Here both
    read [padding; virtual tokens; text]. Models without embedded virtual tokens stay as they are.
    """
    kind = model.active_peft_config
    if kind.peft_type in ("PROMPT_TUNING", "P_TUNING"):
        if kind.task_type == "CAUSAL_LM":
            model.prepare_inputs_for_generation = MethodType(_prepared, model)
        elif kind.task_type == "SEQ_CLS" and _reads_last_place(model):
            model.get_base_model().register_forward_pre_hook(_before_classifying, with_kwargs=True)
    return model


def _reads_last_place(model: "PeftModel") -> bool:
    """Whether a classifier reads the last place, as causal models do, and not the first, as masked ones do."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    return model.config.model_type not in MODEL_FOR_MASKED_LM_MAPPING_NAMES


def _prepared(model: "PeftModel", *args: Any, **kwargs: Any) -> dict[str, Any]:
    """The inputs of one step of generation, in place of the method of peft's model."""
    inputs: dict[str, Any] = type(model).prepare_inputs_for_generation(model, *args, **kwargs)
    return _reordered(inputs) if model.active_peft_config.peft_type != "PREFIX_TUNING" else inputs


def _before_classifying(_: "Module", args: tuple[Any, ...], inputs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """A forward hook; without embeddings there are no virtual tokens: the adapter is switched off, or a prefix."""
    return args, _reordered(inputs) if inputs.get("inputs_embeds") is not None else inputs


def _reordered(inputs: dict[str, Any]) -> dict[str, Any]:
    """Inputs with the places that the mask leaves out first, and positions that count the others from 0.

    After the first step of generation the mask alone is as long as the row, and the cache is in this order already.
    """
    mask = inputs.get("attention_mask")
    if mask is None or mask.dim() != 2:
        return inputs
    order = mask.argsort(dim=1, stable=True)
    mask = mask.gather(1, order)
    inputs = {**inputs, "attention_mask": mask}
    embeddings = inputs.get("inputs_embeds")
    if embeddings is not None:
        inputs["inputs_embeds"] = embeddings.gather(1, order[..., None].expand_as(embeddings))
    length = (inputs["input_ids"] if embeddings is None else embeddings).shape[1]
    inputs["position_ids"] = (mask.long().cumsum(1) - 1).clamp(min=0)[:, -length:]
    return inputs
