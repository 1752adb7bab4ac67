"""The tuner that fuses adapters."""

from ftune.peft.tuners.fusion.config import FusionConfig
from ftune.peft.tuners.fusion.layer import FusionLayer
from ftune.peft.tuners.wrapped import WrappingTuner


class FusionModel(WrappingTuner):
    """AdapterFusion; its saved state holds the frozen adapters too."""

    prefix = "fusion_"
    tuner_layer_cls = FusionLayer

    def add_to(self, layer: FusionLayer, adapter_name: str, config: FusionConfig) -> None:
        """A new adapter of that name."""
        layer.add(adapter_name, config, self._hidden_size())
