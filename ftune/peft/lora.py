"""LoRA (arXiv:2106.09685): the update of a weight is the product of two thin matrices."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from ftune.peft.base import NOTHING, Feature, Material, PeftMethod
from ftune.peft.targets import check_layers, chosen_linears, task_type

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


class Lora(PeftMethod):
    """h = W0 x + (alpha / rank) B A x (equation 3), with A Gaussian and B zero at the start, so step 0 is the base."""

    type: Literal["lora"] = "lora"
    """Low-rank adapters beside linear layers."""

    rank: Annotated[int, Field(ge=1)] = 16
    """Rank of the update."""

    alpha: Annotated[float, Field(gt=0)] = 32.0
    """Scale of the update: it is multiplied by alpha / rank, or by alpha / sqrt(rank) with `rslora`."""

    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout on the adapter's input while training."""

    target_modules: Literal["auto"] | list[str] = "auto"
    """Names of the linear layers to adapt, such as `[q_proj, v_proj]`; `auto` takes all of them but the output head."""

    layers: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] | None = None
    """Indexes of the decoder layers to adapt, from 0; all by default. Layers below the lowest one cost no backward
    pass."""

    rslora: bool = False
    """Scale by alpha / sqrt(rank) (arXiv:2312.03732), so that large ranks keep learning."""

    dora: bool = False
    """Train magnitude and direction apart (arXiv:2402.09353)."""

    def wrap(self, model: "PreTrainedModel", material: Material = NOTHING) -> "PeftModel":
        """The model as a PEFT model with LoRA on the target modules."""
        from peft import LoraConfig, get_peft_model

        check_layers(model, self.layers)
        config = LoraConfig(
            task_type=task_type(model),
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=chosen_linears(model, self.target_modules),
            layers_to_transform=self.layers,
            use_rslora=self.rslora,
            use_dora=self.dora,
        )
        return get_peft_model(model, config)

    def limits(self) -> dict[Feature, str]:
        """DoRA has no product with int8 weights in peft 0.21."""
        if self.dora:
            return {"int8": "DoRA does not work on int8 weights; use 'model.quantization: nf4' or no DoRA"}
        return {}
