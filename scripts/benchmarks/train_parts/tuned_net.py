"""A Llama written for speed alone: what is left when nothing has to be general. T tokens of a flat batch.

Query, key and value are one product, so are gate and up. A LoRA adapter lies in the product of the layer that it is on:
columns [x, x A^T] against [W, s B], so that one large product does the work of three.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, linear, silu
from torch.utils.checkpoint import checkpoint

from ftune.rl.cross_entropy import Summed, cross_entropy
from ftune.speed import documents, varlen
from train_parts.work import ALPHA, RANK, Size

NORM_EPS = 1e-5
ROTARY_BASE = 500_000.0
STD = 0.02


@torch.library.custom_op("ftune_benchmark::thin_product", mutates_args=())
def thin_product(left: Tensor, right: Tensor) -> Tensor:
    """A product that inductor leaves alone: merged with the sum behind it, it would first copy the wide summand."""
    return left @ right


@thin_product.register_fake
def _(left: Tensor, right: Tensor) -> Tensor:
    return left.new_empty(left.shape[0], right.shape[1])


class Folded(torch.autograd.Function):
    """y = [x, x A^T] [W, s B]^T, W frozen. `weight` holds a copy of s B behind W; `mask` says what of B is there."""

    @staticmethod
    def forward(ctx, x: Tensor, a: Tensor, b: Tensor, weight: Tensor, mask: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        """Keeps the columns for the gradients."""
        columns = torch.cat([x, x @ a.to(x.dtype).T], -1)
        ctx.save_for_backward(columns, a, weight, mask)
        return columns @ weight.T

    @staticmethod
    def backward(ctx, by_y: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def]
        """Of x, A and B."""
        columns, a, weight, mask = ctx.saved_tensors
        width = a.shape[1]
        by_columns = by_y @ weight
        by_low = by_columns[:, width:]
        by_x = by_columns[:, :width] + thin_product(by_low, a.to(by_low.dtype)) if ctx.needs_input_grad[0] else None
        by_b = (by_y.T @ columns[:, width:]) * (mask * (ALPHA / RANK))
        return by_x, (by_low.T @ columns[:, :width]).to(a.dtype), by_b.to(a.dtype), None, None


class Stacked(nn.Module):
    """Several linear layers with one input as one, with an adapter on each where it is not trained itself."""

    def __init__(self, inputs: int, outputs: list[int], *, full: bool, device: str, dtype: torch.dtype) -> None:
        super().__init__()
        low = 0 if full else -(-RANK * len(outputs) // 64) * 64
        self.inputs, self.full = inputs, full
        weight = torch.zeros(sum(outputs), inputs + low, dtype=dtype, device=device)
        weight[:, :inputs].normal_(0, STD)
        self.weight = nn.Parameter(weight, requires_grad=full)
        if not full:
            self.a = nn.Parameter(torch.randn(low, inputs, device=device) / inputs**0.5)
            self.b = nn.Parameter(torch.zeros(sum(outputs), low, device=device))
            blocks = [torch.ones(width, RANK) for width in outputs]
            blocks += [torch.zeros(0, low - RANK * len(outputs))]
            self.register_buffer("mask", torch.block_diag(*blocks).to(device, dtype))  # type: ignore[no-untyped-call]

    def forward(self, x: Tensor) -> Tensor:
        """Outputs side by side."""
        if self.full:
            return linear(x, self.weight)
        y: Tensor = Folded.apply(x, self.a, self.b, self.weight, self.mask)  # type: ignore[no-untyped-call]
        return y


class Block(nn.Module):
    """A decoder layer."""

    def __init__(self, size: Size, **how: object) -> None:
        super().__init__()
        hidden, wide, self.head = size["hidden_size"], size["intermediate_size"], size["head_dim"]
        self.heads = [size["num_attention_heads"], size["num_key_value_heads"], size["num_key_value_heads"]]
        full, device, dtype = how["full"], how["device"], how["dtype"]
        self.qkv = Stacked(hidden, [count * self.head for count in self.heads], **how)  # type: ignore[arg-type]
        self.out = Stacked(self.heads[0] * self.head, [hidden], **how)  # type: ignore[arg-type]
        self.gate_up = Stacked(hidden, [wide, wide], **how)  # type: ignore[arg-type]
        self.down = Stacked(wide, [hidden], **how)  # type: ignore[arg-type]
        ones = torch.ones(2, hidden, device=device, dtype=dtype)  # type: ignore[call-overload]
        self.norms = nn.ParameterList(nn.Parameter(one.clone(), requires_grad=bool(full)) for one in ones)

    def forward(self, x: Tensor, turns: tuple[Tensor, Tensor], borders: Tensor, longest: int) -> Tensor:
        """The stream behind the layer, (T, hidden)."""
        heads = self.qkv(norm(x, self.norms[0])).unflatten(1, (-1, self.head)).split(self.heads, 1)
        turned = turn(heads[0], turns), turn(heads[1], turns), heads[2]
        query, key, value = (one.transpose(0, 1)[None] for one in turned)
        attend = varlen.varlen_attention if x.is_cuda else documents.rows_attention
        seen, _ = attend(
            self,
            query,
            key,
            value,
            None,
            scaling=self.head**-0.5,
            cu_seq_lens_q=borders,
            max_length_q=longest,
        )
        x = x + self.out(seen[0].flatten(1))
        gate, up = self.gate_up(norm(x, self.norms[1])).chunk(2, 1)
        y: Tensor = x + self.down(silu(gate) * up)
        return y


class Net(nn.Module):
    """The whole model; `compiled` layers are one graph each, of fixed shapes."""

    def __init__(self, size: Size, *, full: bool, device: str, compiled: bool) -> None:
        super().__init__()
        dtype = torch.bfloat16 if device == "cuda" else torch.float32
        torch.manual_seed(0)
        shape = size["vocab_size"], size["hidden_size"]
        self.embed = nn.Parameter(torch.randn(shape, device=device, dtype=dtype) * STD, requires_grad=full)
        tied = size["tie_word_embeddings"]
        self.head = self.embed if tied else nn.Parameter(torch.randn_like(self.embed) * STD, requires_grad=full)
        layers = range(size["num_hidden_layers"])
        self.blocks = nn.ModuleList(Block(size, full=full, device=device, dtype=dtype) for _ in layers)
        self.last_norm = nn.Parameter(torch.ones(shape[1], device=device, dtype=dtype), requires_grad=full)
        self.frequencies = ROTARY_BASE ** -(torch.arange(0, size["head_dim"], 2, device=device) / size["head_dim"])
        if compiled:
            for block in self.blocks:
                block.compile(fullgraph=True, dynamic=False)

    def forward(self, batch: dict[str, Tensor], longest: int, *, checkpointing: bool) -> Summed:
        """Loss and correct tokens of a batch with places."""
        angles = torch.outer(batch["position_ids"][0].float(), self.frequencies).repeat(1, 2)[:, None]
        turns = angles.cos().to(self.embed.dtype), angles.sin().to(self.embed.dtype)
        x = embedding(batch["input_ids"][0], self.embed)
        for block in self.blocks:
            given = x, turns, batch["cu_seq_lens_q"], longest
            if checkpointing:
                x = checkpoint(block, *given, use_reentrant=False, preserve_rng_state=False)
            else:
                x = block(*given)
        trained = norm(x, self.last_norm).index_select(0, batch["loss_places"])
        return cross_entropy(trained, self.head, batch["loss_targets"])

    @torch.no_grad()
    def fold(self) -> None:
        """Copy adapters into the products, all in one go."""
        stacks = [module for module in self.modules() if isinstance(module, Stacked) and not module.full]
        if stacks:
            scaled = torch._foreach_mul([stack.b for stack in stacks], ALPHA / RANK)
            torch._foreach_copy_([stack.weight[:, stack.inputs :] for stack in stacks], scaled)


def norm(x: Tensor, scale: Tensor) -> Tensor:
    """Root mean square norm, in fp32."""
    wide = x.float()
    return scale * (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + NORM_EPS)).to(x.dtype)


def turn(heads: Tensor, turns: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary positions."""
    first, second = heads.chunk(2, -1)
    return heads * turns[0] + torch.cat([-second, first], -1) * turns[1]
