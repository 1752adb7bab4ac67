"""From hidden states to log-probabilities without logits of whole sequences, and the proof that it is the same."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ftune.rl.logprobs import token_logprobs

FP32_TOLERANCE = 1e-3
HALF_TOLERANCE = 0.05


class Spots(NamedTuple):
    """N tokens of a batch whose log-probabilities are wanted; none is the first of its row."""

    rows_N: Tensor
    places_N: Tensor


class Read(NamedTuple):
    """What a pass over a batch gives."""

    logprobs_N: Tensor
    entropy_N: Tensor
    hidden_BSD: Tensor


@dataclass(frozen=True, slots=True)
class OutputHead:
    """softcap * tanh(scale * (W h + b) / softcap), with everything but W absent in most models."""

    module: nn.Module
    scale: float = 1.0
    softcap: float | None = None

    def logprobs(
        self, hidden_ND: Tensor, targets_N: Tensor, temperature: float, with_entropy: bool
    ) -> tuple[Tensor, Tensor]:
        """Log-probabilities and entropies, fp32, under the adapter that is active."""
        linear = _active(self.module)
        return token_logprobs(
            hidden_ND,
            linear.weight,
            targets_N,
            temperature=temperature,
            bias_V=linear.bias,
            softcap=self.softcap,
            scale=self.scale,
            with_entropy=with_entropy,
        )


def decoder_of(model: Any) -> nn.Module:
    """The model without its output head."""
    whole = model.get_base_model() if hasattr(model, "peft_config") else model
    decoder: nn.Module = whole.get_decoder()
    return decoder


def output_head_of(model: Any) -> OutputHead | None:
    """How the model makes logits; None where that is more than a linear layer, or the layer is quantised or adapted."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import AuxiliaryTrainingWrapper

    whole = model.get_base_model() if hasattr(model, "peft_config") else model
    module = whole.get_output_embeddings()
    original = module.original_module if isinstance(module, AuxiliaryTrainingWrapper) else module
    if type(original) is not nn.Linear or isinstance(module, BaseTunerLayer) or is_virtual(model):
        return None
    config = whole.config.get_text_config()
    scale = float(getattr(config, "logit_scale", None) or 1.0) / float(getattr(config, "logits_scaling", None) or 1.0)
    return OutputHead(module, scale, getattr(config, "final_logit_softcapping", None))


def is_virtual(model: Any) -> bool:
    """Whether a PeftModel puts virtual tokens before its input, so that only its own `forward` computes it."""
    return any(config.is_prompt_learning for config in getattr(model, "peft_config", {}).values())


def read(
    model: Any, head: OutputHead | None, ids_BS: Tensor, spots: Spots, temperature: float, with_entropy: bool = True
) -> Read:
    """One pass over right-padded rows. Without a head, logits of whole rows are made as the model makes them."""
    before = spots.rows_N, spots.places_N - 1
    targets_N = ids_BS[spots.rows_N, spots.places_N]
    if head is not None:
        hidden_BSD = hidden_states(model, ids_BS)
        return Read(*head.logprobs(hidden_BSD[before], targets_N, temperature, with_entropy), hidden_BSD)
    logits_BSV, hidden_BSD = _whole(model, ids_BS)
    log_NV = torch.log_softmax(logits_BSV[before].float() / temperature, dim=-1)
    entropy_N = -(log_NV.exp() * log_NV).sum(-1) if with_entropy else log_NV.new_zeros(len(log_NV))
    return Read(log_NV.gather(1, targets_N[:, None]).squeeze(1), entropy_N, hidden_BSD)


def hidden_states(model: Any, ids_BS: Tensor) -> Tensor:
    """Of the last layer, behind the last norm; shape (B, S, D)."""
    hidden_BSD: Tensor = decoder_of(model)(input_ids=ids_BS, use_cache=False).last_hidden_state
    return hidden_BSD


def _whole(model: Any, ids_BS: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and hidden states of the given tokens, virtual ones before them left out."""
    seen: list[Tensor] = []
    hook = decoder_of(model).register_forward_hook(lambda module, given, out: seen.append(out.last_hidden_state))
    try:
        logits_BSV: Tensor = model(input_ids=ids_BS, use_cache=False).logits
    finally:
        hook.remove()
    width = ids_BS.shape[1]
    return logits_BSV[:, -width:], seen[0][:, -width:]


def _active(module: Any) -> Any:
    """The linear layer at work: a copy that trains with an adapter, or the base's own."""
    from peft.utils import AuxiliaryTrainingWrapper

    if not isinstance(module, AuxiliaryTrainingWrapper):
        return module
    copies = (
        [] if module.disable_adapters else [name for name in module.active_adapters if name in module.modules_to_save]
    )
    return module.modules_to_save[copies[0]] if copies else module.original_module


@torch.no_grad()
def head_differs(model: Any, head: OutputHead, ids_S: Tensor) -> str | None:
    """Why log-probabilities of one row of tokens are not those of the model's own logits; None where they are."""
    ids_BS = ids_S[None]
    places_N = torch.arange(1, ids_BS.shape[1], device=ids_BS.device)
    spots = Spots(torch.zeros_like(places_N), places_N)
    ours, plain = (read(model, way, ids_BS, spots, 1.0, with_entropy=False).logprobs_N for way in (head, None))
    difference = float((ours - plain).abs().mean())
    exact = next(decoder_of(model).parameters()).dtype == torch.float32
    if difference <= (FP32_TOLERANCE if exact else HALF_TOLERANCE):
        return None
    return f"its logits are more than one linear layer (log-probabilities differ by {difference:.3g} on average)"
