"""P-tuning (arXiv:2103.10385): trained embeddings before those of the text, made by a small network."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from ftune.peft.base import NOTHING, Feature, Material, PeftMethod
from ftune.peft.targets import in_fp32, sizes, task_type
from ftune.peft.virtual_tokens import LIMITS, padding_goes_first, prompts
from ftune.plan.adapter import Adapter
from ftune.plan.shape import ModelShape

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


class PTuning(PeftMethod):
    """The model reads [f(P); X], where X embeds the text: f is an MLP, or a two-way LSTM with an MLP on it (section 2).

    Only f(P) is saved: tokens x hidden size, however large f was.
    """

    default_learning_rate: ClassVar[float] = 3e-3

    type: Literal["p_tuning"] = "p_tuning"
    """Trained embeddings before the text's, made by an MLP or LSTM."""

    virtual_tokens: Annotated[int, Field(ge=1)] = 20
    """Length of the prompt."""

    encoder: Literal["mlp", "lstm"] = "lstm"
    """The network f: three linear layers, or an LSTM that ties the tokens together, then two linear layers."""

    hidden_size: Annotated[int, Field(ge=1)] | None = None
    """Width of the encoder (of each direction of an LSTM); that of the model by default."""

    layers: Annotated[int, Field(ge=1)] | None = None
    """Layers of the LSTM; 2 by default."""

    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout between the layers of the LSTM."""

    @model_validator(mode="after")
    def _only_with_an_lstm(self) -> Self:
        if self.encoder == "mlp" and (self.layers is not None or self.dropout):
            raise ValueError("encoder: 'mlp' has neither 'layers' nor 'dropout'; remove them, or use 'lstm'")
        if self.layers == 1 and self.dropout:
            raise ValueError("dropout: it lies between the LSTM's layers, and there is one; set 'layers: 2' or more")
        return self

    def wrap(self, model: "PreTrainedModel", material: Material = NOTHING) -> "PeftModel":
        """The model as a PEFT model with a prompt and its encoder."""
        from peft import PromptEncoderConfig, get_peft_model

        config = PromptEncoderConfig(
            task_type=task_type(model),
            num_virtual_tokens=self.virtual_tokens,
            **sizes(model),
            num_transformer_submodules=1,  # an encoder-decoder has its prompt in the encoder
            encoder_reparameterization_type=self.encoder.upper(),
            encoder_hidden_size=self.hidden_size,
            encoder_num_layers=self.layers or 2,
            encoder_dropout=self.dropout,
        )
        return padding_goes_first(in_fp32(get_peft_model(model, config)))

    def planned(self, shape: ModelShape) -> Adapter:
        """The prompt and its encoder.

        A direction of an LSTM's layer has four gates, each with a matrix for inputs, one for states and two biases.
        """
        outer, inner = shape.hidden, self.hidden_size or shape.hidden
        if self.encoder == "mlp":
            encoder = (outer + 1) * inner + (inner + 1) * inner + (inner + 1) * outer
        else:
            reads = [outer, *[2 * inner] * ((self.layers or 2) - 1)]
            lstm = sum(2 * 4 * inner * (width + inner + 2) for width in reads)
            encoder = lstm + (2 * inner + 1) * 2 * inner + (2 * inner + 1) * outer
        return prompts(shape, self.virtual_tokens, self.virtual_tokens * outer + encoder)

    def limits(self) -> dict[Feature, str]:
        """What no virtual tokens go with."""
        return LIMITS

    def export(self, model: "PreTrainedModel | PeftModel", folder: Path) -> None:
        """Save what the encoder gives without dropout; peft 0.21 takes it as it stands, and a trained one drops."""
        training = model.training
        model.eval()
        super().export(model, folder)
        model.train(training)
