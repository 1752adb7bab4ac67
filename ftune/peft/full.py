"""Full fine-tuning: every parameter trains."""

from typing import TYPE_CHECKING, ClassVar, Literal

from ftune.peft.base import PeftMethod

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Full(PeftMethod):
    """Train every parameter, kept in fp32 while the products run in `model.dtype`."""

    library: ClassVar[str] = "transformers"
    trains_base: ClassVar[bool] = True
    default_learning_rate: ClassVar[float] = 2e-5

    type: Literal["full"] = "full"
    """Train all parameters."""

    def wrap(self, model: "PreTrainedModel") -> "PreTrainedModel":
        """The same model with all parameters trainable and in fp32."""
        model.float()
        return model.requires_grad_(True)
