"""The adapter_config.json of fused adapters."""

from dataclasses import dataclass, field

from peft import PeftConfig
from peft.utils.peft_types import PeftType


@dataclass
class FusionConfig(PeftConfig):
    """Where adapters are fused (`target_modules`: paths of sublayers) and what each of them is."""

    target_modules: list[str] | str | None = None
    style: str = "houlsby"
    """That of all adapters."""
    sizes: list[int] = field(default_factory=list)
    """Width of each adapter's bottleneck; its other settings have one item an adapter too."""
    activations: list[str] = field(default_factory=list)
    scales: list[float] = field(default_factory=list)
    modules_to_save: list[str] | None = None

    def __post_init__(self) -> None:
        """Peft knows the method by this."""
        super().__post_init__()
        self.peft_type = PeftType("ADAPTER_FUSION")
