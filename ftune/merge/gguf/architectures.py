"""The architectures that can be written: what GGUF calls their settings, and what it keeps in another order or offset.

Facts of the format as llama.cpp reads it. A setting that its reader takes for granted is checked here, because a model
that has another one would load without a complaint and answer wrongly.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gguf import GGUFWriter
    from transformers import PreTrainedConfig

SWA_PERIOD = {"gemma2": 2, "gemma3": 6}
"""One layer in so many sees the whole text, the others a window; the readers know this by architecture."""

LAYERS_OF_27B = {"gemma2": 46, "gemma3": 62}
"""A Gemma of so many layers divides its attention by another root; the readers tell it by its layers."""


class UnfitError(Exception):
    """The model has something that its GGUF architecture cannot say; the text says what."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """How models of one `model_type` of transformers are written."""

    name: str
    """`general.architecture`."""
    activation: str = "silu"
    pairs_interleaved: bool = False
    """Rotary pairs are neighbours in the file, and halves of a head in transformers: rows of Q and K change places."""
    norms_plus_one: bool = False
    """transformers multiplies by 1 + weight, GGUF by the weight."""
    biases: tuple[str, ...] = ()
    """Modules whose bias the readers load."""
    untied: bool = True
    """Whether the readers load an output matrix beside the embedding."""
    window_unknown: bool = False
    """The readers know no sliding window. Within one the model is the same, so longer texts are not promised."""
    own: Callable[["GGUFWriter", "PreTrainedConfig", str], None] | None = None
    """Writes the settings that only this architecture has; raises UnfitError."""

    def write_settings(self, writer: "GGUFWriter", config: "PreTrainedConfig") -> None:
        """Write the settings of the network, the rotary embedding's excepted. Raises UnfitError."""
        activation = getattr(config, "hidden_activation", None) or config.hidden_act
        if activation != self.activation:
            raise UnfitError(f"its activation is {activation}, not {self.activation}")
        if not (self.untied or config.tie_word_embeddings):
            raise UnfitError("its output matrix is not its embedding")
        head, context = head_dim(config), config.max_position_embeddings
        if self.window_unknown and config.sliding_window:
            context = min(context, config.sliding_window)
        writer.add_context_length(context)
        writer.add_embedding_length(config.hidden_size)
        writer.add_block_count(config.num_hidden_layers)
        writer.add_feed_forward_length(config.intermediate_size)
        writer.add_head_count(config.num_attention_heads)
        writer.add_head_count_kv(config.num_key_value_heads)
        writer.add_key_length(head)
        writer.add_value_length(head)
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        writer.add_vocab_size(config.vocab_size)
        writer.add_rope_dimension_count(head)
        if self.own is not None:
            self.own(writer, config, self.name)


def head_dim(config: "PreTrainedConfig") -> int:
    """Numbers of one attention head."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _full_attention(writer: "GGUFWriter", config: "PreTrainedConfig", name: str) -> None:
    if "sliding_attention" in (getattr(config, "layer_types", None) or []):
        raise UnfitError("its layers see a sliding window")


def _gemma(writer: "GGUFWriter", config: "PreTrainedConfig", name: str) -> None:
    period = SWA_PERIOD[name]
    layers = range(config.num_hidden_layers)
    wanted = ["sliding_attention" if (layer + 1) % period else "full_attention" for layer in layers]
    if list(config.layer_types) != wanted:
        raise UnfitError(f"not one layer in {period} sees the whole text")
    average = config.num_hidden_layers == LAYERS_OF_27B[name]
    scale = config.hidden_size // config.num_attention_heads if average else head_dim(config)
    if config.query_pre_attn_scalar != scale:
        raise UnfitError(f"query_pre_attn_scalar is {config.query_pre_attn_scalar:g}, and readers take {scale}")
    if getattr(config, "use_bidirectional_attention", False):
        raise UnfitError("its attention looks ahead")
    writer.add_sliding_window(config.sliding_window)
    caps = {"attention": config.attn_logit_softcapping, "final": config.final_logit_softcapping}
    if odd := [which for which, cap in caps.items() if bool(cap) != (name == "gemma2")]:
        raise UnfitError(f"its {odd[0]} logits are {'capped' if caps[odd[0]] else 'not capped'}")
    if name == "gemma2":
        writer.add_attn_logit_softcapping(caps["attention"])
        writer.add_final_logit_softcapping(caps["final"])


_QKV = ("q_proj", "k_proj", "v_proj")
_LINEAR = (*_QKV, "o_proj", "gate_proj", "up_proj", "down_proj")
_GELU = "gelu_pytorch_tanh"

ARCHITECTURES = {
    "llama": Architecture("llama", pairs_interleaved=True, biases=_LINEAR),
    "mistral": Architecture("llama", pairs_interleaved=True, window_unknown=True),
    "qwen2": Architecture("qwen2", biases=_QKV, own=_full_attention),
    "qwen3": Architecture("qwen3", own=_full_attention),
    "gemma2": Architecture("gemma2", activation=_GELU, norms_plus_one=True, untied=False, own=_gemma),
    "gemma3_text": Architecture("gemma3", activation=_GELU, norms_plus_one=True, own=_gemma),
}
"""By `model_type` of the configuration. SmolLM2 is a Llama, R1's distillations are Qwen2 and Llama."""
