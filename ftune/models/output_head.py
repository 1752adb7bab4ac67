"""How a causal language model makes logits of hidden states, where a linear layer, a factor and a cap are all of it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, slots=True)
class OutputHead:
    """softcap * tanh(scale * (W h + b) / softcap), with everything but W absent in most models."""

    module: "nn.Module"
    scale: float = 1.0
    softcap: float | None = None

    @property
    def linear(self) -> "nn.Linear":
        """The linear layer at work: a copy that trains with an adapter, or the base's own."""
        from peft.utils import AuxiliaryTrainingWrapper

        module: Any = self.module
        if not isinstance(module, AuxiliaryTrainingWrapper):
            return module  # type: ignore[no-any-return]
        active = [] if module.disable_adapters else module.active_adapters
        copies = [name for name in active if name in module.modules_to_save]
        layer: nn.Linear = module.modules_to_save[copies[0]] if copies else module.original_module
        return layer


def inner_model(model: Any) -> Any:
    """The model of transformers, without peft around it."""
    return model.get_base_model() if hasattr(model, "peft_config") else model


def decoder_of(model: Any) -> "nn.Module":
    """The model without its output head."""
    decoder: nn.Module = inner_model(model).get_decoder()
    return decoder


def output_head_of(model: Any) -> OutputHead | str:
    """How the model makes logits; in words, why that is more than `OutputHead` can say."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import AuxiliaryTrainingWrapper
    from torch import nn

    whole = inner_model(model)
    module = whole.get_output_embeddings()
    if is_virtual(model):
        return "the method puts virtual tokens before each row"
    if isinstance(module, BaseTunerLayer):
        return "the output layer has an adapter"
    original = module.original_module if isinstance(module, AuxiliaryTrainingWrapper) else module
    if type(original) is not nn.Linear:
        return f"the output layer is a {type(original).__name__}, not a linear layer"
    config = whole.config.get_text_config()
    return OutputHead(module, _scale(config), getattr(config, "final_logit_softcapping", None))


def is_virtual(model: Any) -> bool:
    """Whether a PeftModel puts virtual tokens before its input, so that only its own `forward` computes it."""
    return any(config.is_prompt_learning for config in getattr(model, "peft_config", {}).values())


def _scale(config: Any) -> float:
    """What logits are multiplied by; Cohere, Falcon-H1 and HyperCLOVA X say it, Granite and MiniCPM3 what divides."""
    for name in ("logit_scale", "output_multiplier", "lm_head_multiplier"):
        if (factor := getattr(config, name, None)) is not None:
            return float(factor)
    divisor = getattr(config, "logits_scaling", None)
    if divisor is None:
        return 1.0
    return float(divisor) if config.model_type == "hyperclovax" else 1.0 / float(divisor)
