"""The tuner that gives modules a trained bias."""

from typing import Any

from peft.tuners.tuners_utils import BaseTuner
from torch import nn

from ftune.peft.tuners.bias.config import BiasConfig
from ftune.peft.tuners.bias.layer import BiasLayer
from ftune.peft.tuners.bias.switches import Switched, switched_for


class BiasModel(BaseTuner):
    """Trained biases on the target modules: linear layers, quantised or not, and norms that have a bias."""

    prefix = "bitfit_"
    tuner_layer_cls = BiasLayer
    target_module_mapping: dict[str, list[str]] = {}  # noqa: RUF012 - peft looks here; the targets are always given

    def _create_and_replace(
        self,
        peft_config: BiasConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        if isinstance(target, BiasLayer):
            target.add(adapter_name)
            target.set_adapter(self.active_adapters, inference_mode=peft_config.inference_mode)
            return
        layer = BiasLayer(target)
        layer.add(adapter_name)
        layer.set_adapter(self.active_adapters, inference_mode=peft_config.inference_mode)
        self._replace_module(parent, target_name, layer, target)

    def _unload_and_optionally_merge(self, merge: bool = True, **options: Any) -> nn.Module:
        """The base; with `merge`, its biases shifted, and its config such that it is loaded with all of them.

        Raises ModelError when the architecture cannot hold biases where merging would make them.
        """
        switched = self._switched(options.get("adapter_names")) if merge else None
        model: nn.Module = super()._unload_and_optionally_merge(merge=merge, **options)
        if switched is not None:
            switched.apply(model)
        return model

    def _switched(self, adapter_names: list[str] | None) -> Switched | None:
        """How the base's config has to change for the biases that merging makes; None when it makes none."""
        merged = set(adapter_names or self.active_adapters)
        made = {
            path
            for path, module in self.model.named_modules()
            if isinstance(module, BiasLayer) and not module.had_bias and merged & set(module.bitfit_bias)
        }
        return switched_for(self.model, made) if made and hasattr(self.model, "config") else None
