"""The tuner that fuses adapters."""

from torch import nn

from ftune.peft.tuners.fusion.config import FusionConfig
from ftune.peft.tuners.fusion.layer import FusionLayer
from ftune.peft.tuners.wrapped import WrappingTuner


class FusionModel(WrappingTuner):
    """AdapterFusion; its saved state holds the frozen adapters too."""

    prefix = "fusion_"
    tuner_layer_cls = FusionLayer

    def _create_and_replace(
        self,
        peft_config: FusionConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        layer: FusionLayer = self._wrapped(target, target_name, parent)
        layer.add(adapter_name, peft_config, self._hidden_size())
