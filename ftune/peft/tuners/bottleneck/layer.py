"""A bottleneck, and a sublayer with bottlenecks on it."""

from torch import Tensor, nn
from transformers.activations import ACT2FN

from ftune.peft.tuners.bottleneck.config import BottleneckConfig
from ftune.peft.tuners.bottleneck.phm import KroneckerLinear, shared_factors
from ftune.peft.tuners.wrapped import WrappedSublayer


class Bottleneck(nn.Module):
    """scale * up(dropout(activation(down(x)))), in the dtype of its parameters.

    `up` is zero at the start and `down` is not, as in the code of arXiv:2110.04366: the first output is zero and the
    first gradient is not.
    """

    def __init__(self, hidden_size: int, config: BottleneckConfig) -> None:
        super().__init__()
        self.down: nn.Linear | KroneckerLinear
        self.up: nn.Linear | KroneckerLinear
        if config.phm_dimension:
            kronecker = (config.phm_dimension, config.phm_rank)
            self.down = KroneckerLinear(hidden_size, config.size, *kronecker, zero=False)
            self.up = KroneckerLinear(config.size, hidden_size, *kronecker, zero=True)
        else:
            self.down = nn.Linear(hidden_size, config.size)
            self.up = nn.Linear(config.size, hidden_size)
            for zero in (self.down.bias, self.up.weight, self.up.bias):
                nn.init.zeros_(zero)
        self.activation = ACT2FN[config.activation]
        self.dropout = nn.Dropout(config.dropout)
        self.scale = config.scale

    def forward(self, hidden: Tensor, *shared: Tensor) -> Tensor:
        """The change, (batch, tokens, hidden); `shared` are the factors of a Compacter, else nothing."""
        narrow = self.activation(self.down(hidden.to(self.up.bias.dtype), *shared))
        change: Tensor = self.up(self.dropout(narrow), *shared) * self.scale
        return change


class BottleneckLayer(WrappedSublayer):
    """A sublayer with one bottleneck an adapter name, behind or beside it."""

    adapter_layer_names = ("bottleneck_adapters", "bottleneck_shared")
    other_param_names = ("bottleneck_beside",)
    bottleneck_shared: nn.ParameterDict
    """A Compacter's factors by adapter name: the tuner's, one for all layers."""

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__(base_layer)
        self.bottleneck_adapters = nn.ModuleDict()
        self.bottleneck_beside: dict[str, bool] = {}

    def add(self, adapter: str, config: BottleneckConfig, hidden_size: int, shared: nn.ParameterDict) -> None:
        """A new adapter; the first one of its name makes the factors too."""
        # outside of the module tree, so that the factors are saved once, with the tuner
        object.__setattr__(self, "bottleneck_shared", shared)
        if config.phm_dimension and adapter not in shared:
            shared[adapter] = shared_factors(config.phm_dimension)
        self.bottleneck_adapters[adapter] = Bottleneck(hidden_size, config)
        self.bottleneck_beside[adapter] = config.style == "parallel"
        self._move_adapter_to_device_of_base_layer(adapter)

    def change(self, adapter: str, read: Tensor, written: Tensor) -> Tensor:
        """What the adapter's bottleneck makes of its input."""
        shared = [self.bottleneck_shared[adapter]] if adapter in self.bottleneck_shared else []
        change: Tensor = self.bottleneck_adapters[adapter](
            read if self.bottleneck_beside[adapter] else written, *shared
        )
        return change
