"""Attention over the outputs of several adapters (arXiv:2005.00247, section 3.2)."""

import torch
from torch import Tensor, nn

from ftune.peft.tuners.bottleneck.config import BottleneckConfig
from ftune.peft.tuners.bottleneck.layer import Bottleneck
from ftune.peft.tuners.fusion.config import FusionConfig
from ftune.peft.tuners.wrapped import WrappedSublayer


class FusionAttention(nn.Module):
    """softmax(Q h . K z_n) over the adapters n weighs V z_n, token by token; 3 d^2 + 2 d parameters."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.query = nn.Linear(hidden_size, hidden_size)
        self.key = nn.Linear(hidden_size, hidden_size)
        self.value = nn.Linear(hidden_size, hidden_size, bias=False)
        for layer in (self.query, self.key):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
        nn.init.normal_(self.value.weight, std=1e-6)  # near the identity, as in the paper
        with torch.no_grad():
            self.value.weight.diagonal().add_(1)

    def forward(self, written: Tensor, changes: Tensor) -> Tensor:
        """The mixture, (..., d), of the adapters' changes, (..., adapters, d)."""
        scores = torch.einsum("...d,...nd->...n", self.query(written), self.key(changes))
        mixture: Tensor = torch.einsum("...n,...nd->...d", scores.softmax(-1), self.value(changes))
        return mixture


class FusionLayer(WrappedSublayer):
    """A sublayer with frozen bottlenecks, whose changes are mixed."""

    adapter_layer_names = ("fusion_attention",)
    other_param_names = ("fusion_adapters", "fusion_beside")

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__(base_layer)
        self.fusion_attention = nn.ModuleDict()
        self.fusion_adapters = nn.ModuleDict()
        self.fusion_beside: dict[str, bool] = {}

    def add(self, adapter: str, config: FusionConfig, hidden_size: int) -> None:
        """A new mixture `adapter` of zero bottlenecks, which a state dict fills."""
        settings = zip(config.sizes, config.activations, config.scales, strict=True)
        fused = [
            Bottleneck(hidden_size, BottleneckConfig(size=size, activation=activation, scale=scale))
            for size, activation, scale in settings
        ]
        self.fusion_adapters[adapter] = nn.ModuleList(fused).requires_grad_(False)
        self.fusion_attention[adapter] = FusionAttention(hidden_size)
        self.fusion_beside[adapter] = config.style == "parallel"
        self._move_adapter_to_device_of_base_layer(adapter)

    def change(self, adapter: str, read: Tensor, written: Tensor) -> Tensor:
        """The mixture; query is what the sublayer wrote, keys and values are what the adapters would add to it."""
        seen = read if self.fusion_beside[adapter] else written
        changes = torch.stack([bottleneck(seen) for bottleneck in self.fusion_adapters[adapter].children()], dim=-2)
        mixture: Tensor = self.fusion_attention[adapter](written.to(changes.dtype), changes)
        return mixture
