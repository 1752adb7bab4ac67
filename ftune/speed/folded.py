"""LoRA without its tax: adapters folded into the product of their layers, layers with one input as one product.

With LoRA a layer gives x W^T + s (x A^T) B^T (arXiv 2106.09685, equation 3): three products, and sums over all that
the wide one has made. Here they are one: columns [x, x A^T] against [W, s B], where layers that read the same x (query,
key and value; gate and up) stand below one another in W. What trains stays peft's own A and B.

N rows of x, each of width `inputs`; `low` is the sum of the ranks, on a GPU filled up to a multiple of 64.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from ftune.models.output_head import inner_model
from ftune.plan.folded import LOW_STEP
from ftune.speed.frozen import Frozen, frozen_weights

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Group:
    """Layers that read one input, in the order in which the model calls them."""

    def __init__(self, layers: Sequence[Any], weights: Frozen) -> None:
        """`weights` are the frozen ones of the layers, below one another."""
        self.weights = weights
        self.adapters = [layer.active_adapters[0] for layer in layers]
        self.layers = list(layers)
        self.widths = [layer.out_features for layer in layers]
        self.ranks = [layer.r[name] for layer, name in zip(layers, self.adapters, strict=True)]
        self.scales = [layer.scaling[name] for layer, name in zip(layers, self.adapters, strict=True)]
        biases = [layer.get_base_layer().bias for layer in layers]
        self.bias = None if biases[0] is None else torch.cat([bias.detach() for bias in biases]).to(weights.dtype)
        self.filling = weights.low.shape[1] - sum(self.ranks)
        self._given: Tensor | None = None
        self._made: tuple[Tensor, ...] = ()

    def part(self, x: Tensor, place: int) -> Tensor:
        """What the layer at `place` makes of x; the others' parts are kept until the last of them is asked for."""
        if self._given is not x:
            self._given, self._made = x, self._product(x)
        made = self._made[place]
        if place == len(self.widths) - 1:
            self._given, self._made = None, ()
        return made

    def _product(self, x: Tensor) -> tuple[Tensor, ...]:
        x_ND = x.to(self.weights.dtype).flatten(0, -2)
        low = self._low(x_ND)
        y = _Folded.apply(x_ND, low, self.weights, self.widths, self.ranks, self.scales, *self.b())  # type: ignore[no-untyped-call]
        y = y if self.bias is None else y + self.bias
        return tuple(y.unflatten(0, x.shape[:-1]).split(self.widths, -1))

    def _low(self, x_ND: Tensor) -> Tensor:
        """X A^T for the A of all layers, side by side; (N, low)."""
        inputs = [
            (layer.lora_dropout[name](x_ND), layer.lora_A[name].weight.to(x_ND.dtype))
            for layer, name in zip(self.layers, self.adapters, strict=True)
        ]
        if all(dropped is x_ND for dropped, _ in inputs):
            a = torch.cat([*(a for _, a in inputs), x_ND.new_zeros(self.filling, x_ND.shape[1])])
            return _thin_linear(x_ND, a)
        parts = [_thin_linear(dropped, a) for dropped, a in inputs]
        return torch.cat([*parts, x_ND.new_zeros(len(x_ND), self.filling)], -1)

    def b(self) -> list[Tensor]:
        """The B of all layers."""
        return [layer.lora_B[name].weight for layer, name in zip(self.layers, self.adapters, strict=True)]


def low_width(layers: Sequence[Any]) -> int:
    """Columns that the adapters of layers add to their product."""
    step = LOW_STEP if layers[0].get_base_layer().weight.is_cuda else 1
    ranks: list[int] = [layer.r[layer.active_adapters[0]] for layer in layers]
    return -(-sum(ranks) // step) * step


class _Folded(torch.autograd.Function):
    """[x, low] [W, s B]^T, W frozen, whose columns for s B are current."""

    @staticmethod
    def forward(
        ctx: Any,
        x_ND: Tensor,
        low: Tensor,
        weights: Frozen,
        widths: list[int],
        ranks: list[int],
        scales: list[float],
        *b: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(low)
        ctx.weights, ctx.parts, ctx.dtypes = weights, (widths, ranks, scales), [one.dtype for one in b]
        return torch.cat([x_ND, low], -1) @ weights.whole().T

    @staticmethod
    def backward(ctx: Any, by_y: Tensor) -> tuple[Tensor | None, ...]:
        (low,) = ctx.saved_tensors
        by_columns = by_y @ ctx.weights.whole(again=True)
        width = by_columns.shape[1] - low.shape[1]
        by_all = by_y.T @ low
        by_b, row, column = [], 0, 0
        for outputs, rank, scale, dtype in zip(*ctx.parts, ctx.dtypes, strict=True):
            by_b.append((by_all[row : row + outputs, column : column + rank] * scale).to(dtype))
            row, column = row + outputs, column + rank
        return by_columns[:, :width], by_columns[:, width:], None, None, None, None, *by_b


@torch.library.custom_op("ftune::thin_product", mutates_args=())
def _thin_product(left: Tensor, right: Tensor) -> Tensor:
    """A product that inductor leaves alone: joined with the sum behind it, it would first copy the wide summand."""
    return left @ right


@_thin_product.register_fake
def _(left: Tensor, right: Tensor) -> Tensor:
    return left.new_empty(left.shape[0], right.shape[1])


class _ThinLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, a: Tensor) -> Tensor:
        ctx.save_for_backward(x_ND, a)
        return linear(x_ND, a)

    @staticmethod
    def backward(ctx: Any, by_low: Tensor) -> tuple[Tensor, Tensor]:
        x_ND, a = ctx.saved_tensors
        return _thin_product(by_low, a), by_low.T @ x_ND


def _thin_linear(x_ND: Tensor, a: Tensor) -> Tensor:
    low: Tensor = _ThinLinear.apply(x_ND, a)  # type: ignore[no-untyped-call]
    return low


class FoldedLinear:
    """What goes before peft's class of a layer while it is folded."""

    group: Group
    place: int

    def forward(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The part of the layer in its group's product; peft's own way where the adapter is switched off or merged."""
        if self.disable_adapters or self.merged:
            return super().forward(x, *args, **kwargs)  # type: ignore[misc,no-any-return]
        part: Tensor = self.group.part(x, self.place)
        return part


def foldable(layer: Any) -> bool:
    """Whether a layer is peft's LoRA of one adapter and nothing more, on weights that `Frozen` knows."""
    from peft.tuners.lora import LoraLayer

    # its subclasses elsewhere in peft (AdaLoRA's) compute something else
    if not isinstance(layer, LoraLayer) or not type(layer).__module__.startswith("peft.tuners.lora."):
        return False
    if layer.disable_adapters or layer.merged or len(layer.active_adapters) != 1:
        return False
    name = layer.active_adapters[0]
    if name not in layer.lora_A or name in layer.lora_variant or layer.lora_bias.get(name):
        return False
    return not any(one.requires_grad for one in layer.get_base_layer().parameters()) and Frozen.knows(layer)


@contextmanager
def watched(model: nn.Module) -> Iterator[list[list[Any]]]:
    """Foldable layers by the input that they read, as the model calls them within the block."""
    found: list[list[Any]] = []
    last: list[Tensor] = []
    seen: set[int] = set()

    def look(layer: Any, args: tuple[Tensor, ...]) -> None:
        if id(layer) in seen:
            return
        seen.add(id(layer))
        if last and last[0] is args[0] and Frozen.alike(found[-1][0], layer):
            found[-1].append(layer)
        else:
            found.append([layer])
        last[:] = args[:1]

    hooks = [layer.register_forward_pre_hook(look) for layer in model.modules() if foldable(layer)]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def folded(model: "PreTrainedModel", found: Sequence[Sequence[Any]]) -> Iterator[None]:
    """The model with the layers of each group as one product; behind, they are peft's again."""
    groups = [Group(layers, frozen_weights(layers, low_width(layers))) for layers in found]
    plain: list[tuple[Any, Any]] = [(layer, type(layer)) for group in groups for layer in group.layers]
    for group in groups:
        for place, layer in enumerate(group.layers):
            layer.group, layer.place = group, place
    for layer, kind in plain:
        layer.__class__ = _folded_class(kind)
    # peft calls the forward of the model itself, past its hooks
    hook = inner_model(model).base_model.register_forward_pre_hook(Refresh(groups))
    try:
        yield
    finally:
        hook.remove()
        for layer, kind in plain:
            layer.__class__ = kind
            del layer.group, layer.place


@cache
def _folded_class(kind: Any) -> type:
    """One class for all layers of a kind: what is compiled for one of them does for all."""
    return type(f"Folded{kind.__name__}", (FoldedLinear, kind), {})


class Refresh:
    """Copies s B into the products, as the last step left it, by a few kernels for all of them."""

    def __init__(self, groups: Sequence[Group]) -> None:
        self.places, self.values, self.scales = list[Tensor](), list[Tensor](), list[float]()
        for group in groups:
            row = column = 0
            for b, outputs, rank, scale in zip(group.b(), group.widths, group.ranks, group.scales, strict=True):
                self.places.append(group.weights.low[row : row + outputs, column : column + rank])
                self.values.append(b)
                self.scales.append(scale)
                row, column = row + outputs, column + rank

    @torch.no_grad()
    def __call__(self, *_: Any) -> None:
        """As a hook before the forward pass."""
        torch._foreach_copy_(self.places, torch._foreach_mul(self.values, self.scales))
