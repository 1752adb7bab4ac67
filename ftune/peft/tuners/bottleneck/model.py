"""The tuner that puts bottlenecks on sublayers."""

from typing import Any

from torch import nn

from ftune.peft.tuners.bottleneck.config import BottleneckConfig
from ftune.peft.tuners.bottleneck.layer import BottleneckLayer
from ftune.peft.tuners.wrapped import WrappingTuner


class BottleneckModel(WrappingTuner):
    """Bottleneck adapters; `bottleneck_shared` holds a Compacter's shared factors by adapter name."""

    prefix = "bottleneck_"
    tuner_layer_cls = BottleneckLayer
    uses_shared_state = True
    bottleneck_shared: nn.ParameterDict

    def _pre_injection_hook(self, model: nn.Module, config: BottleneckConfig, adapter_name: str) -> None:
        self.bottleneck_shared = nn.ParameterDict()

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """Add an adapter; the factors of others stay trainable or frozen, as peft keeps all that is in the layers."""
        before = [(factors, factors.requires_grad) for factors in self.bottleneck_shared.values()]
        super().inject_adapter(model, adapter_name, *args, **kwargs)
        for factors, trainable in before:
            factors.requires_grad_(trainable)

    def add_to(self, layer: BottleneckLayer, adapter_name: str, config: BottleneckConfig) -> None:
        """A new adapter of that name."""
        layer.add(adapter_name, config, self._hidden_size(), self.bottleneck_shared)
