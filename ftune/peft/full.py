"""Full fine-tuning: every parameter trains."""

from typing import TYPE_CHECKING, ClassVar, Literal

from ftune.peft.base import NOTHING, Feature, Material, PeftMethod
from ftune.plan.adapter import Adapter
from ftune.plan.shape import ModelShape

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_WAY_OUT = "use 'peft: lora' (QLoRA) or 'model.quantization: none'"
WHOLE_MODEL_LIMITS: dict[Feature, str] = {
    "nf4": f"training the model itself cannot train nf4 weights; {_WAY_OUT}",
    "int8": f"training the model itself cannot train int8 weights; {_WAY_OUT}",
    "merge": "the result is a whole model already",
}
"""What no method goes with that trains the model's own weights."""


class Full(PeftMethod):
    """Train every parameter, kept in fp32 while the products run in `model.dtype`; in bf16 with `adamw_bf16`."""

    library: ClassVar[Literal["peft", "transformers"]] = "transformers"
    trains_base: ClassVar[bool] = True
    default_learning_rate: ClassVar[float] = 2e-5

    type: Literal["full"] = "full"
    """Train all parameters."""

    def wrap(self, model: "PreTrainedModel", material: Material = NOTHING) -> "PreTrainedModel":
        """The same model with all parameters trainable, in the one dtype that it was loaded in."""
        for parameter in model.parameters():
            parameter.data = parameter.data.to(model.dtype)  # what was put on it, too
        return model.requires_grad_(True)

    def planned(self, shape: ModelShape) -> Adapter:
        """All of the model's own parameters."""
        return Adapter(base=shape.parameters)

    def limits(self) -> dict[Feature, str]:
        """What no method goes with that trains the model's own weights."""
        return WHOLE_MODEL_LIMITS
