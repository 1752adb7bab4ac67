"""Prefix tuning (arXiv:2101.00190): trained keys and values before those of the text, in every layer."""

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from ftune.peft.base import NOTHING, Feature, Material, PeftMethod
from ftune.peft.virtual_tokens import KEYS_LIMITS, prefixes, with_prefix
from ftune.plan.adapter import Adapter
from ftune.plan.shape import ModelShape

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


class Prefix(PeftMethod):
    """Each layer attends to [P_k; K] and [P_v; V], where row i of P is MLP(P'[i]) while training (section 4.3)."""

    default_learning_rate: ClassVar[float] = 1e-3

    type: Literal["prefix"] = "prefix"
    """Trained keys and values in every layer, made by an MLP while training."""

    virtual_tokens: Annotated[int, Field(ge=1)] = 20
    """Length of the prefix. It adds 2 x layers x tokens x width of the keys to what is saved."""

    reparameterisation: bool = True
    """Make the prefix by an MLP while training, which the paper found stable; only the prefix itself is saved."""

    hidden_size: Annotated[int, Field(ge=1)] | None = None
    """Width of the MLP; 512 by default."""

    @model_validator(mode="after")
    def _hidden_size_of_something(self) -> Self:
        if self.hidden_size is not None and not self.reparameterisation:
            raise ValueError("hidden_size: it belongs to the MLP; remove it, or set 'reparameterisation: true'")
        return self

    def wrap(self, model: "PreTrainedModel", material: Material = NOTHING) -> "PeftModel":
        """The model as a PEFT model with a prefix."""
        width = self.hidden_size or 512
        return with_prefix(model, self.virtual_tokens, width if self.reparameterisation else None, material)

    def planned(self, shape: ModelShape) -> Adapter:
        """The prefix and its MLP, which is the larger part by far."""
        width = self.hidden_size or 512
        return prefixes(shape, self.virtual_tokens, width if self.reparameterisation else None)

    def limits(self) -> dict[Feature, str]:
        """The prefix lies in the key-value cache, which decides what works."""
        return KEYS_LIMITS
