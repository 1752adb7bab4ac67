"""Everything about a run that its memory depends on, as plain values."""

from dataclasses import dataclass, field
from typing import Literal

from ftune.plan.adapter import Adapter
from ftune.plan.shape import ModelShape

Dtype = Literal["bf16", "fp16", "fp32"]
Optimizer = Literal["adamw", "adamw_bf16", "adamw_8bit", "paged_adamw", "paged_adamw_8bit", "adafactor", "sgd"]
Place = Literal["none", "cpu", "nvme"]

BYTES: dict[str, int] = {"bf16": 2, "fp16": 2, "fp32": 4}


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """How a run is laid over processes."""

    type: Literal["single", "ddp", "zero", "fsdp"] = "single"
    processes: int = 1
    """On each node."""
    nodes: int = 1
    stage: Literal[1, 2, 3] = 2
    """Of ZeRO."""
    optimizer: Place = "none"
    """Where ZeRO keeps moments and fp32 weights: on the device, in the CPU's memory, on a drive."""
    parameters: Place = "none"
    """Where ZeRO-3 keeps weights; `cpu` with FSDP2: parameters, gradients and moments."""
    bucket_size: int = 200_000_000
    """Numbers that ZeRO sends in one message."""
    overlap: bool = True
    """Whether ZeRO sends one bucket while it fills another."""
    bucket_mib: int = 25
    """Of DDP."""
    hybrid: bool = False
    """FSDP2 within each node, with a copy on each."""
    reshard: bool = True
    """Whether FSDP2 frees a layer's gathered weights after its forward pass."""

    @property
    def world(self) -> int:
        """Processes on all nodes."""
        return self.processes * self.nodes


@dataclass(frozen=True, slots=True, kw_only=True)
class Roles:
    """What PPO has beside the policy."""

    shared: bool = True
    """All roles on one frozen base; else full copies."""
    value: Literal["trunk", "adapter", "copy"] = "trunk"
    """A head on the policy, an adapter of its own like the policy's, a copy of the model that trains in full."""
    reference: Literal["none", "base", "adapter", "copy"] = "base"
    """What the KL penalty is measured from: nothing of its own, the base, a frozen adapter, a frozen copy."""
    reward_models: tuple[ModelShape, ...] = ()
    """Reward models with weights of their own, each loaded whole in the dtype of products."""
    reward_adapters: int = 0
    """Parameters of reward models that are adapters on the policy's base."""
    engine: Literal["generate", "continuous", "graph", "vllm"] = "generate"
    """What makes completions."""
    completions: int = 64
    """Completions of one iteration on a rank."""
    at_once: int = 64
    """Of them, how many are generated at once."""
    merged: bool = True
    """Whether the graph engine decodes with a copy of the weights that has the adapters added."""
    prompt_tokens: int = 512
    """Longest prompt."""
    new_tokens: int = 128
    """Longest completion."""
    gpu_share: float = 0.0
    """Part of the device's memory that vLLM takes; 0 with other engines."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A run. Sizes of batches and rows are those of one process."""

    kind: Literal["sft", "rm", "ppo"] = "sft"
    shape: ModelShape
    adapter: Adapter = field(default_factory=Adapter)
    """What trains. For full fine-tuning, `base` is all of the model's parameters."""
    dense: int = 0
    """Numbers of whole weights that a forward pass makes anew and keeps, over all layers (`PeftMethod.dense`)."""
    dtype: Dtype = "bf16"
    """Of frozen weights and of products."""
    quantization: Literal["none", "nf4", "int8"] = "none"
    """Of frozen weights of linear layers in decoder layers."""
    double_quant: bool = True
    """Whether NF4's scales are quantised too."""
    optimizer: Optimizer = "adamw"
    micro_batch_size: int = 8
    """Rows computed at once."""
    accumulation: int = 1
    """Micro-batches of one step."""
    tokens: int = 1024
    """Tokens of a row, padding included: the longest there is, or `data.max_length` where rows are packed."""
    packed: bool = False
    flat: bool = False
    """Whether rows are laid end to end without padding, each with attention to itself alone."""
    most_tokens: int | None = None
    """Tokens of the largest flat micro-batch, where the rows are known; else it is of rows that are all the longest."""
    own_tokens: int | None = None
    """Tokens of each of several rows in a packed sequence, on average, where attention is kept within them."""
    equal_rows: bool = False
    """Whether all rows of a batch are equally long, so that attention needs no mask for padding."""
    attention: Literal["sdpa", "eager", "flash_attention_2", "flex_attention"] = "sdpa"
    checkpointing: Literal["selective"] | bool = False
    """Whether activations are computed again in the backward pass: all of a layer's, or a part."""
    offload: bool = False
    """Whether layers' inputs, all that checkpointing keeps, lie in the CPU's memory."""
    loss: Literal["fused", "tiled", "whole"] = "tiled"
    """Logits of some trained tokens at once, which become their own gradients; tiles of all tokens' logits, made twice
    (TRL's `fused_lm_head`); or all logits at once."""
    compiled: bool = False
    """Whether decoder layers are compiled (`torch.compile`)."""
    fp8: bool = False
    """Whether products of compiled layers are in FP8."""
    folded: bool = False
    """Whether LoRA's first matrices lie beside the base's own, as columns of one product."""
    on_gpu: bool = True
    """Whether elementwise functions are single kernels, and attention is one for rows of all lengths."""
    dropout: float = 0.0
    """Of the adapter."""
    spread: Spread = Spread()
    roles: Roles | None = None
    """Of PPO."""

    @property
    def batch_tokens(self) -> int:
        """Tokens computed at once, with those that the method puts before each row."""
        most = self.micro_batch_size * (self.tokens + self.adapter.virtual_tokens)
        return min(most, self.most_tokens) if self.flat and self.most_tokens else most

    @property
    def trained(self) -> int:
        """Parameters that train."""
        return self.adapter.base + self.adapter.parameters

    @property
    def full(self) -> bool:
        """Whether every parameter of the model trains."""
        return self.adapter.base >= self.shape.parameters

    @property
    def eager(self) -> bool:
        """Whether attention keeps all its scores."""
        if self.flat:
            return False
        return self.attention == "eager" or (self.attention == "sdpa" and self.shape.scores != "fused")

    @property
    def width(self) -> int:
        """Bytes of a number in products."""
        return BYTES[self.dtype]

    @property
    def trained_width(self) -> int:
        """Bytes of a number that trains, and of its gradient, where a backend does not divide them."""
        return BYTES["bf16" if self.optimizer == "adamw_bf16" else "fp32"]

    @property
    def split(self) -> bool:
        """Whether weights are split over processes: each computes with gathered ones in the dtype of products."""
        return self.spread.world > 1 and self.spread.type == "fsdp"

    @property
    def stream_width(self) -> int:
        """Bytes of a number in the residual stream: that of the embedding's dtype.

        Whole models mostly train in fp32, but for ZeRO and FSDP2, which compute with weights in the dtype of products.
        """
        return self.width if not self.full or self.split or self.spread.type == "zero" else self.trained_width
