"""The adapter_config.json of trained biases."""

from dataclasses import dataclass

from peft import PeftConfig
from peft.utils.peft_types import PeftType


@dataclass
class BiasConfig(PeftConfig):
    """Which modules have a trained bias (`target_modules`: paths, or ends of paths)."""

    target_modules: list[str] | str | None = None
    modules_to_save: list[str] | None = None

    def __post_init__(self) -> None:
        """Peft knows the method by this."""
        super().__post_init__()
        self.peft_type = PeftType("BITFIT")
