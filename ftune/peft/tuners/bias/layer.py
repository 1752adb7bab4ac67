"""A module with a trained offset to its output, which is a trained bias."""

from typing import TYPE_CHECKING, Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D


class BiasLayer(nn.Module, BaseTunerLayer):
    """y = f(x) + b, with b zero at the start, one for each adapter name.

    f may have a bias b0 of its own, which stays frozen. The gradient of b0 + b is the same by b as by b0, so training b
    is training b0, and only b has to be saved.
    """

    adapter_layer_names = ("bitfit_bias",)

    if TYPE_CHECKING:  # what peft's own half has, which is not typed

        def __getattr__(self, name: str) -> Any: ...

    def __init__(self, base_layer: Any) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.bitfit_bias = nn.ParameterDict()
        self.had_bias = base_layer.bias is not None
        self.merged_adapters: list[str] = []  # peft's own is one list for all layers

    def add(self, adapter: str) -> None:
        """A new adapter's offset."""
        self.bitfit_bias[adapter] = nn.Parameter(torch.zeros(width(self.get_base_layer())))
        self._move_adapter_to_device_of_base_layer(adapter)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """What the module gives plus the active offsets, (..., width), in the module's dtype."""
        if self.disable_adapters and self.merged:
            self.unmerge()
        result: Tensor = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters or self.merged:
            return result
        for adapter in self.active_adapters:
            if adapter in self.bitfit_bias:
                result = (result + self.bitfit_bias[adapter]).to(result.dtype)
        return result

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Add offsets to the module's own bias, which is made where there was none. Quantised weights stay as they are.

        Raises ValueError, with `safe_merge`, when an offset is not finite.
        """
        for adapter in check_adapters_to_merge(self, adapter_names):
            if adapter in self.bitfit_bias:
                offset = self.bitfit_bias[adapter].data
                if safe_merge and not bool(torch.isfinite(offset).all()):
                    raise ValueError(f"the biases of adapter '{adapter}' are not finite")
                self._shift(offset)
                self.merged_adapters.append(adapter)

    def unmerge(self) -> None:
        """Take merged offsets back; a bias that merging made goes."""
        while self.merged_adapters:
            self._shift(-self.bitfit_bias[self.merged_adapters.pop()].data)
        if not self.had_bias:
            self.get_base_layer().bias = None

    def _shift(self, offset: Tensor) -> None:
        base = self.get_base_layer()
        if base.bias is None:
            zero_bias(base, self._get_base_layer_device_and_dtype(base)[1])
        base.bias.data = (base.bias.data + offset).to(base.bias.dtype)


def width(module: Any) -> int:
    """Length of the bias that a module has or could have: the last dimension of its output."""
    if module.bias is not None:
        return int(module.bias.shape[-1])
    return int(module.nf if isinstance(module, Conv1D) else module.out_features)


def zero_bias(module: Any, dtype: torch.dtype | None = None) -> None:
    """Give a linear layer a bias of zeros, in `dtype` or that of its weight; fp32 beside weights of integers."""
    kind = dtype or module.weight.dtype
    floating = kind if kind.is_floating_point else torch.float32
    zeros = torch.zeros(width(module), dtype=floating, device=module.weight.device)
    module.bias = nn.Parameter(zeros, requires_grad=False)
