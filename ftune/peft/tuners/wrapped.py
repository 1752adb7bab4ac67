"""Whole sublayers (attention, feed-forward) whose output is changed: what bottleneck adapters and their fusion share.

A sublayer is wrapped as it is and never looked into, so it may be quantised, fused, or a mixture of experts.
"""

import re
from abc import abstractmethod
from typing import Any

import torch
from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from torch import Tensor, nn

from ftune.core.errors import ModelError


class WrappedSublayer(nn.Module, BaseTunerLayer):
    """h = f(x) + the sum of the active adapters' changes, where f is the wrapped sublayer.

    Of a sublayer that returns a tuple, the first item is h.
    """

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__()
        self.base_layer = base_layer

    @abstractmethod
    def change(self, adapter: str, read: Tensor, written: Tensor) -> Tensor:
        """What an adapter adds, from what the sublayer `read` and has `written`: all (batch, tokens, hidden)."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the sublayer returns, changed."""
        result = self.base_layer(*args, **kwargs)
        present = self._get_available_adapters()
        adapters = [name for name in self.active_adapters if name in present]
        if self.disable_adapters or not adapters:
            return result
        read: Any = args[0] if args else kwargs.get("hidden_states")
        written = result[0] if isinstance(result, tuple) else result
        changes = [self.change(name, read, written).to(written.dtype) for name in adapters]
        adapted = sum(changes, start=written)
        return (adapted, *result[1:]) if isinstance(result, tuple) else adapted

    def __getattr__(self, name: str) -> Any:
        """Models read attributes of their sublayers, such as an attention's `layer_idx`."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "base_layer":  # not there yet
                raise
            return getattr(self.base_layer, name)

    def _get_base_layer_device_and_dtype(self, base_layer: nn.Module) -> tuple[torch.device, None]:
        """A sublayer has no weight of its own to tell where it is; adapters keep their dtype whatever its own."""
        return next(base_layer.parameters()).device, None


class WrappingTuner(BaseTuner):
    """A tuner of wrapped sublayers, which `target_modules` of its config names by their paths."""

    target_module_mapping: dict[str, list[str]] = {}  # noqa: RUF012 - peft looks here; the paths are always given

    def _hidden_size(self) -> int:
        size: int = self.model.config.get_text_config().hidden_size
        return size

    @abstractmethod
    def add_to(self, layer: Any, adapter_name: str, config: Any) -> None:
        """Give a wrapped sublayer (the tuner's own class) a new adapter, as its config says."""

    def _create_and_replace(
        self,
        peft_config: PeftConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        layer = target
        if not isinstance(target, self.tuner_layer_cls):
            layer = self.tuner_layer_cls(target)
            self._replace_module(parent, target_name, layer, target)
        self.add_to(layer, adapter_name, peft_config)

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        """Only that: peft's own expects the child to have a weight."""
        setattr(parent, child_name, new_module)

    def _check_merge_allowed(self) -> None:
        raise ModelError("bottleneck adapters are not linear, so no weight of the base can take them in; keep them")

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        """The name stands behind one of the tuner's own attributes, with any number of parts after it."""
        return re.sub(rf"(\.{cls.prefix}\w+)\.{re.escape(adapter_name)}(?=\.|$)", r"\1", key, count=1)
