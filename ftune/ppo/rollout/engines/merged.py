"""The policy's weights with the adapter inside, one at a time and beside the model: nothing is merged in place.

Adding and subtracting an update in a bf16 weight does not give the weight back; the reference, which is the same
weight without adapter, would drift with every synchronisation.
"""

from collections import Counter
from collections.abc import Iterator

import torch
from peft import PeftModel
from peft.tuners.lora import Embedding, Linear
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from transformers import PreTrainedModel

from ftune.core.errors import ModelError
from ftune.ppo.rollout.engines.undisturbed import causal_model

BASE = ".base_layer."
ADAPTER = ".lora_"


def merged_parameters(model: PreTrainedModel | PeftModel) -> Iterator[tuple[str, torch.Tensor]]:
    """Each parameter under its name in the plain model and in its dtype: W, or W + delta summed in fp32.

    Tied weights come once. One merged weight is alive at a time, if the caller lets go of it.
    """
    plain = causal_model(model)
    for name, value in plain.named_parameters():
        if ADAPTER in name:
            continue
        owner, wrapped, leaf = name.rpartition(BASE)
        merged = value.detach()
        if wrapped and leaf == "weight":
            merged = _with_adapters(merged, plain.get_submodule(owner))
        yield f"{owner}.{leaf}" if wrapped else name, merged


def check_mergeable(model: PreTrainedModel | PeftModel) -> None:
    """Raises ModelError for adapters that `merged_parameters` cannot put into the weights: all but plain LoRA."""
    plain = causal_model(model)
    uses = Counter(id(value) for _, value in plain.named_parameters(remove_duplicate=False))
    for name, module in plain.named_modules():
        found = ""
        if isinstance(module, AuxiliaryTrainingWrapper):
            found = "is trained as a whole beside the adapter"
        elif isinstance(module, BaseTunerLayer):
            found = _not_plain_lora(module)
            if not found and uses[id(module.get_base_layer().weight)] > 1:
                found = "shares its weight with another layer, which has no adapter"
        if found:
            raise ModelError(
                f"rollout.type: vllm gets the weights with a plain LoRA summed in, but '{name}' {found}; "
                "use rollout.type=generate"
            )


def _not_plain_lora(layer: BaseTunerLayer) -> str:
    if not isinstance(layer, Linear | Embedding):
        return f"is {type(layer).__module__}.{type(layer).__name__}"
    if layer.merged:
        return "has its adapter merged in already"
    if layer.lora_variant or any(layer.lora_bias.values()):
        return "has a variant of LoRA (DoRA, a bias, ...)"
    return ""


def _with_adapters(weight: torch.Tensor, layer: BaseTunerLayer) -> torch.Tensor:
    if layer.disable_adapters:
        return weight
    held = {*layer.lora_A, *layer.lora_embedding_A}
    deltas = [layer.get_delta_weight(name).detach() for name in layer.active_adapters if name in held]
    return sum((delta.float() for delta in deltas), weight.float()).to(weight.dtype) if deltas else weight
