"""Linear maps as the decode pass reads them: the base's own weights with adapters beside, or copies with both in one.

- `shared` reads the base's weights in place; of the adapters there are copies in the number format of the products. The
  scaled second factor is kept, so a product costs x W' + (x A') (s B)' (LoRA, arXiv:2106.09685, section 4.1).
- `merged` holds W + s B A, for maps that read the same input in one matrix: fewer and larger products for one more copy
  of the weights. The sum is made in fp32 and rounded once, out of place: the base never changes.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from peft.tuners.lora import LoraLayer
from peft.utils.integrations import dequantize_module_weight
from torch import nn
from torch.nn import functional

from ftune.core.errors import ModelError
from ftune.ppo.rollout.graphs.layout import Layout, linear_modules

Mode = Literal["shared", "merged"]


class Product(NamedTuple):
    """Linear maps of one input."""

    weights: tuple[torch.Tensor, ...]
    """One matrix (outputs, inputs) a map, or one for all of them."""
    biases: tuple[torch.Tensor | None, ...]
    widths: tuple[int, ...]
    """Outputs of each map."""
    down: torch.Tensor | None
    """The first factors of all adapters: (ranks, inputs)."""
    ups: tuple[torch.Tensor | None, ...]
    """The scaled second factor of each map: (outputs, rank)."""


def apply(product: Product, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The result of each map for inputs (..., inputs)."""
    x = x.to(product.weights[0].dtype)
    if len(product.weights) < len(product.widths):
        return torch.split(functional.linear(x, product.weights[0], product.biases[0]), list(product.widths), -1)
    low = None if product.down is None else functional.linear(x, product.down)
    results, begin = [], 0
    for weight, bias, up in zip(product.weights, product.biases, product.ups, strict=True):
        result = functional.linear(x, weight, bias)
        if low is not None and up is not None:
            result = result + functional.linear(low[..., begin : begin + up.shape[1]], up)
            begin += up.shape[1]
        results.append(result)
    return tuple(results)


class Layer(NamedTuple):
    """The weights of one decoder layer."""

    entry_norm: torch.Tensor
    middle_norm: torch.Tensor
    q_norm: torch.Tensor | None
    k_norm: torch.Tensor | None
    qkv: Product
    out: Product
    gate_up: Product
    down: Product


class Weights:
    """All weights of the decode pass; their addresses never change."""

    def __init__(self, layout: Layout, mode: Mode) -> None:
        self._maps: list[_Shared | _Merged] = []
        self.layers = [self._layer(layer, layout.dtype, mode) for layer in layout.layers]
        self.head = self._product([layout.head], layout.dtype, mode)
        self.norm: torch.Tensor = layout.norm.weight
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Take over what training has changed."""
        for source in self._maps:
            source.refresh()

    def _layer(self, layer: Any, dtype: torch.dtype, mode: Mode) -> Layer:
        maps, attention = linear_modules(layer), layer.self_attn
        return Layer(
            layer.input_layernorm.weight,
            layer.post_attention_layernorm.weight,
            attention.q_norm.weight if hasattr(attention, "q_norm") else None,
            attention.k_norm.weight if hasattr(attention, "k_norm") else None,
            self._product([maps[name] for name in ("q_proj", "k_proj", "v_proj")], dtype, mode),
            self._product([maps["o_proj"]], dtype, mode),
            self._product([maps[name] for name in ("gate_proj", "up_proj")], dtype, mode),
            self._product([maps["down_proj"]], dtype, mode),
        )

    def _product(self, modules: Sequence[nn.Module], dtype: torch.dtype, mode: Mode) -> Product:
        alone = len(modules) == 1 and _reads_in_place(modules[0], dtype) and not list(_adapters(modules[0]))
        source = _Shared(modules, dtype) if mode == "shared" or alone else _Merged(modules, dtype)
        self._maps.append(source)
        return source.product


def shared_fault(layout: Layout) -> str:
    """Why weights cannot be read in place, if so."""
    modules = [module for layer in layout.layers for module in linear_modules(layer).values()]
    for module in (*modules, layout.head):
        weight: Any = _base(module).weight
        if not _reads_in_place(module, layout.dtype):
            return f"the model's weights are {weight.dtype} and products are made in {layout.dtype}"
        if any(magnitude is not None for *_, magnitude in _adapters(module)):
            return "DoRA rescales the base's weights"
    return ""


def merged_bytes(layout: Layout) -> int:
    """What the copies of `merged` take."""
    modules = [module for layer in layout.layers for module in linear_modules(layer).values()]
    if not _reads_in_place(layout.head, layout.dtype) or list(_adapters(layout.head)):
        modules.append(layout.head)
    numbers: int = sum(_base(module).in_features * _base(module).out_features for module in modules)
    return numbers * layout.dtype.itemsize


class _Shared:
    """Weights by reference, adapters as copies."""

    def __init__(self, modules: Sequence[nn.Module], dtype: torch.dtype) -> None:
        self.copies: list[torch.Tensor] = []
        self.sources: list[torch.Tensor] = []
        self.scales: list[float] = []
        bases = [_base(module) for module in modules]
        adapters = [list(_adapters(module)) for module in modules]
        ranks = [sum(a.shape[0] for a, *_ in each) for each in adapters]
        empty = partial(torch.zeros, dtype=dtype, device=bases[0].weight.device)
        down = empty(sum(ranks), bases[0].in_features)
        ups = [empty(base.out_features, rank) for base, rank in zip(bases, ranks, strict=True)]
        row = 0
        for up, each in zip(ups, adapters, strict=True):
            column = 0
            for a, b, scale, _ in each:
                rank = a.shape[0]
                self.copies += [down[row : row + rank], up[:, column : column + rank]]
                self.sources += [a, b]
                self.scales += [1.0, scale]
                row, column = row + rank, column + rank
        weights, biases = tuple(base.weight for base in bases), tuple(base.bias for base in bases)
        widths = tuple(base.out_features for base in bases)
        acting = tuple(up if up.shape[1] else None for up in ups)
        self.product = Product(weights, biases, widths, down if any(ranks) else None, acting)

    def refresh(self) -> None:
        """Copy the adapters as they are now."""
        if self.copies:
            torch._foreach_copy_(self.copies, torch._foreach_mul(self.sources, self.scales))


class _Merged:
    """One matrix for all maps, adapters added."""

    def __init__(self, modules: Sequence[nn.Module], dtype: torch.dtype) -> None:
        bases = [_base(module) for module in modules]
        self.modules = list(modules)
        self.widths = tuple(base.out_features for base in bases)
        device = bases[0].weight.device
        self.weight = torch.empty(sum(self.widths), bases[0].in_features, dtype=dtype, device=device)
        biased = any(base.bias is not None for base in bases)
        self.bias = torch.zeros(sum(self.widths), dtype=dtype, device=device) if biased else None
        self.product = Product((self.weight,), (self.bias,), self.widths, None, (None,) * len(bases))

    def refresh(self) -> None:
        """Add the adapters as they are now to the base as it is now."""
        begin = 0
        for module, width in zip(self.modules, self.widths, strict=True):
            self.weight[begin : begin + width].copy_(_effective(module))
            bias = _base(module).bias
            if self.bias is not None and bias is not None:
                self.bias[begin : begin + width].copy_(bias)
            begin += width


def _effective(module: nn.Module) -> torch.Tensor:
    """What a linear map with its active adapters multiplies by, in fp32; DoRA by arXiv:2402.09353, equation 5."""
    weight: torch.Tensor = dequantize_module_weight(_base(module)).to(torch.float32, copy=True)
    for a, b, scale, magnitude in _adapters(module):
        weight.addmm_(b.float(), a.float(), alpha=scale)
        if magnitude is not None:
            weight.mul_((magnitude.float() / weight.norm(dim=1))[:, None])
    return weight


def _adapters(module: Any) -> Iterator[tuple[torch.Tensor, torch.Tensor, float, torch.Tensor | None]]:
    """Both factors, the scale, and DoRA's magnitude of each adapter that acts on a linear map."""
    if not isinstance(module, LoraLayer) or module.disable_adapters:
        return
    for name in module.active_adapters:
        if name in module.lora_A:
            dora = module.lora_magnitude_vector[name].weight if name in module.lora_magnitude_vector else None
            yield module.lora_A[name].weight, module.lora_B[name].weight, module.scaling[name], dora


def _base(module: Any) -> Any:
    return module.base_layer if isinstance(module, LoraLayer) else module


def _reads_in_place(module: nn.Module, dtype: torch.dtype) -> bool:
    return bool(_base(module).weight.dtype == dtype)


def check_mode(layout: Layout, mode: Mode) -> None:
    """Raises ModelError where weights cannot be read in this way."""
    reason = shared_fault(layout) if mode == "shared" else ""
    if reason:
        raise ModelError(f"rollout.weights: shared cannot serve this model: {reason}; set merged or auto")
