"""The adapter_config.json of bottleneck adapters."""

from dataclasses import dataclass

from peft import PeftConfig
from peft.utils.peft_types import PeftType


@dataclass
class BottleneckConfig(PeftConfig):
    """Where adapters sit (`target_modules`: paths of sublayers) and how they are made."""

    target_modules: list[str] | str | None = None
    style: str = "houlsby"
    """`houlsby` and `pfeiffer` read what a sublayer wrote, `parallel` what it read."""
    size: int = 64
    """Width of the bottleneck."""
    activation: str = "gelu"
    dropout: float = 0.0
    scale: float = 1.0
    phm_dimension: int | None = None
    """Number of Kronecker products in each projection (Compacter); none in plain ones."""
    phm_rank: int = 1
    modules_to_save: list[str] | None = None

    def __post_init__(self) -> None:
        """Peft knows the method by this."""
        super().__post_init__()
        self.peft_type = PeftType("BOTTLENECK")
