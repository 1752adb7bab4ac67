"""P-tuning v2 (arXiv:2110.07602): prompts in every layer, for classification as for generation."""

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from ftune.peft.base import NOTHING, Feature, Material, PeftMethod
from ftune.peft.virtual_tokens import KEYS_LIMITS, prefixes, with_prefix
from ftune.plan.adapter import Adapter
from ftune.plan.shape import ModelShape

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


class PTuningV2(PeftMethod):
    """Each layer attends to [P_k; K] and [P_v; V], where P itself trains, beside a linear head where there is one."""

    default_learning_rate: ClassVar[float] = 3e-2

    type: Literal["p_tuning_v2"] = "p_tuning_v2"
    """Trained keys and values in every layer, without an MLP."""

    virtual_tokens: Annotated[int, Field(ge=1)] = 20
    """Prompts in each layer: short ones for easy classification, about 100 for hard sequence labelling."""

    def wrap(self, model: "PreTrainedModel", material: Material = NOTHING) -> "PeftModel":
        """The model as a PEFT model of peft's prefix type, which is this method without its projection."""
        return with_prefix(model, self.virtual_tokens, hidden_size=None, material=material)

    def planned(self, shape: ModelShape) -> Adapter:
        """Prompts of each layer."""
        return prefixes(shape, self.virtual_tokens, None)

    def limits(self) -> dict[Feature, str]:
        """The prompts lie in the key-value cache, which decides what works."""
        return KEYS_LIMITS
