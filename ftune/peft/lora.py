"""LoRA (arXiv:2106.09685): the update of a weight is the product of two thin matrices."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from ftune.core.errors import ModelError
from ftune.core.suggest import did_you_mean
from ftune.peft.base import PeftMethod

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

    def wrap(self, model: "PreTrainedModel") -> "PeftModel":
        """The model as a PEFT model with LoRA on the target modules."""
        from peft import LoraConfig, get_peft_model

        count = model.config.get_text_config().num_hidden_layers
        if self.layers and max(self.layers) >= count:
            raise ModelError(f"peft.layers: {max(self.layers)} is not there; the model has layers 0 to {count - 1}")
        config = LoraConfig(
            task_type="CAUSAL_LM",
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=self._targets(model),
            layers_to_transform=self.layers,
            use_rslora=self.rslora,
            use_dora=self.dora,
        )
        return get_peft_model(model, config)

    def _targets(self, model: "PreTrainedModel") -> list[str]:
        """Names of the layers to adapt, each of which the model has."""
        paths = linear_names(model)
        leaves = sorted({path.rpartition(".")[2] for path in paths})
        if self.target_modules == "auto":
            return leaves
        for name in self.target_modules:
            if not any(path == name or path.endswith(f".{name}") for path in paths):
                raise ModelError(f"peft.target_modules: no linear layer '{name}'{did_you_mean(name, leaves)}")
        return self.target_modules


def linear_names(model: "PreTrainedModel") -> list[str]:
    """Dotted names of the model's linear layers, quantised ones included, without the output head."""
    import torch
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    kinds = (torch.nn.Linear, Conv1D)
    return [name for name, module in model.named_modules() if isinstance(module, kinds) and module is not head]
