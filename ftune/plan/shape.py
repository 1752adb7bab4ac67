"""What of a model's architecture its memory and time depend on."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Linear:
    """A linear layer: `outputs x inputs` weights, and `outputs` biases where it has them."""

    name: str
    """From the decoder layer on, as in the model: `self_attn.q_proj`; the head's is the whole name, `lm_head`."""
    inputs: int
    outputs: int
    bias: bool = False
    reads: Literal["stream", "attention", "block"] = "stream"
    """Where its input comes from: a norm of the residual stream, attention, or the middle of the feed-forward block."""

    @property
    def weights(self) -> int:
        """Numbers in the weight."""
        return self.inputs * self.outputs

    @property
    def parameters(self) -> int:
        """Weight and bias."""
        return self.weights + (self.outputs if self.bias else 0)


@dataclass(frozen=True, slots=True)
class Norm:
    """A normalisation: `width` scales, and as many biases where it is a LayerNorm with them."""

    name: str
    """From the decoder layer on, as in the model: `input_layernorm`; the last one's is the whole name, `model.norm`."""
    width: int
    bias: bool = False
    scale: bool = True

    @property
    def parameters(self) -> int:
        """Scales and biases."""
        return self.width * (self.scale + self.bias)


@dataclass(frozen=True, slots=True)
class Embedding:
    """A table of learned vectors: of tokens, or of positions."""

    name: str
    """The whole name of its module: `model.embed_tokens`."""
    rows: int
    width: int

    @property
    def parameters(self) -> int:
        """Numbers in the table."""
        return self.rows * self.width


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """A causal language model of equal decoder layers, exactly as transformers builds it."""

    family: str
    """transformers' `model_type`, such as `llama`."""
    hidden: int
    """Width of the residual stream."""
    layers: int
    heads: int
    """Query heads."""
    kv_heads: int
    """Heads of keys and values."""
    head_dim: int
    ffn: int
    """Width inside the feed-forward block."""
    gated: bool
    """Whether that block multiplies two products of its input (SwiGLU, GeGLU) instead of taking one."""
    vocab: int
    positions: int
    """Longest sequence that the model is made for, in tokens; 0 where it does not say."""
    tied: bool
    """Whether the head's weight is the embedding's."""
    layer_path: str
    """What comes before a decoder layer's number in names: `model.layers`."""
    layer_linears: tuple[Linear, ...]
    """The linear layers of one decoder layer, in the order of its modules."""
    layer_norms: tuple[Norm, ...]
    """The normalisations of one decoder layer, in the order of its modules."""
    embeddings: tuple[Embedding, ...]
    """Embeddings of tokens, and of positions where they are learned."""
    outer_linears: tuple[Linear, ...] = ()
    """Linear layers outside of decoder layers, but for the head."""
    last_norms: tuple[Norm, ...]
    """What follows the last layer."""
    head: Linear
    """From hidden states to logits; its weight counts as the embedding's where they are tied."""
    rotary: bool = True
    """Whether queries and keys are turned by their positions, which makes new tensors of them."""
    scores: Literal["fused", "kept", "capped"] = "fused"
    """Whether transformers computes its attention without keeping scores (SDPA), or keeps them, with a soft cap too."""
    activation: Literal["one", "relu", "composed"] = "one"
    """The block's: one operation, which keeps its input; ReLU, which keeps its result; or several operations."""
    norm: Literal["rms", "layer"] = "rms"
    """RMS norms are computed of an fp32 copy of their input, LayerNorms in fp32."""
    stored_as: str = "none"
    """How the files hold the linear layers of decoder layers: as numbers (`none`), `nf4`, `int8`, or another way."""
    stored_double: bool = False
    """Whether NF4's scales are quantised there too."""

    def linears(self) -> tuple[Linear, ...]:
        """Each linear layer of one decoder layer, and the head at the end."""
        return (*self.layer_linears, self.head)

    @property
    def layer_parameters(self) -> int:
        """Parameters of one decoder layer."""
        linears = sum(linear.parameters for linear in self.layer_linears)
        return linears + sum(norm.parameters for norm in self.layer_norms)

    @property
    def layer_weights(self) -> int:
        """Numbers in the weights of one decoder layer's linear layers: what can be quantised."""
        return sum(linear.weights for linear in self.layer_linears)

    @property
    def head_parameters(self) -> int:
        """Parameters of the head alone; those that it shares with the embedding are not its own."""
        return self.head.parameters - (self.head.weights if self.tied else 0)

    @property
    def embedding_parameters(self) -> int:
        """Parameters of all embeddings."""
        return sum(table.parameters for table in self.embeddings)

    @property
    def parameters(self) -> int:
        """All parameters of the model; shared ones count once."""
        outer = sum(norm.parameters for norm in self.last_norms) + sum(line.parameters for line in self.outer_linears)
        return self.layers * self.layer_parameters + self.embedding_parameters + outer + self.head_parameters

    @property
    def query_width(self) -> int:
        """Numbers that a token's queries have in a layer."""
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Numbers that a token's keys have in a layer; its values have as many."""
        return self.kv_heads * self.head_dim
