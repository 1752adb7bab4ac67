"""What every method of parameter-efficient fine-tuning provides."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from ftune.core.section import Section
from ftune.plan.adapter import Adapter
from ftune.plan.shape import ModelShape

if TYPE_CHECKING:
    from peft import PeftModel
    from torch.nn import Module
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from ftune.peft.hook import TrainingHook

Feature = Literal[
    "unquantized",
    "packing",
    "activation_checkpointing",
    "selective_checkpointing",
    "nf4",
    "int8",
    "classification",
    "encoder_decoder",
    "step_zero",
    "merge",
    "zero",
    "zero3",
    "fsdp",
]
"""What a method may or may not go together with; `step_zero`: before training, the model gives what its base gives."""

FEATURES: dict[Feature, str] = {
    "unquantized": "16 or 32 bit",
    "packing": "packing",
    "activation_checkpointing": "checkpointing",
    "selective_checkpointing": "selective",
    "nf4": "NF4",
    "int8": "int8",
    "classification": "classifiers",
    "encoder_decoder": "encoder-decoder",
    "step_zero": "starts as the base",
    "merge": "merging",
    "zero": "ZeRO-1, 2",
    "zero3": "ZeRO-3",
    "fsdp": "FSDP2",
}


IN_PLACE = (
    "peft adds to products in place, so what is kept would not be what it was; use "
    "'batch.activation_checkpointing: true'"
)
"""Why a method does not go with selective checkpointing."""


@dataclass(frozen=True, slots=True)
class Material:
    """What a method may start from beside the model itself; most need nothing of it."""

    tokenizer: "PreTrainedTokenizerBase | None" = None
    located: str = ""
    """What `from_pretrained` opens to read the base model's own weights."""
    rows: Sequence[Sequence[int]] = ()
    """Token ids of some training rows."""


NOTHING = Material()


class PeftMethod(Section):
    """A method: its fields are its recipe keys, `wrap` applies it.

    To add one, add a file beside this one with a subclass that has a `type` field; nothing else needs an edit.
    """

    library: ClassVar[Literal["peft", "transformers"]] = "peft"
    """The library that loads the result: `peft` for an adapter, `transformers` for a whole model."""

    own_tuner: ClassVar[bool] = False
    """Whether peft can load the result only after `import ftune.peft.tuners`."""

    trains_base: ClassVar[bool] = False
    """Whether the model's own weights train; they are then in fp32, or in bf16 where the optimiser is for that."""

    default_learning_rate: ClassVar[float] = 2e-4
    """What `optim.learning_rate: auto` means with this method."""

    @abstractmethod
    def wrap(self, model: "PreTrainedModel", material: Material = NOTHING) -> "PreTrainedModel | PeftModel":
        """The model with only this method's parameters trainable, in fp32; all of them, as they were loaded.

        `model` is a causal, a sequence classification (its head trains too) or an encoder-decoder model. Raises
        ModelError when it has nothing that the method could train.
        """

    @abstractmethod
    def planned(self, shape: ModelShape) -> Adapter:
        """What `wrap` will make trainable on a causal model of this shape, and what that keeps, by arithmetic alone.

        The counts are those of `count_parameters` after `wrap`, or a bound from above where they depend on data; for a
        sequence classification model give `places.classifier(shape, labels)`. Raises ModelError as `wrap` would.
        """

    def dense(self, shape: ModelShape) -> int:
        """Numbers of whole weights that a forward pass computes anew, over all layers, and keeps for the backward pass.

        Each is in the dtype of the products. Most methods compute none.
        """
        return 0

    def limits(self) -> dict[Feature, str]:
        """What these settings do not go together with: why, and what to do instead.

        Everything that is not named here works and is tested to work. Recipes are refused by it, and the table of
        methods is made from it. It must not look at required fields, nor import anything heavy.
        """
        return {}

    def hook(self, model: "PeftModel") -> "TrainingHook | None":
        """What has to happen during training beside the optimiser's steps; mostly nothing."""
        return None

    def learning_rate_factor(self, parameter: str) -> float:
        """What the learning rate of a parameter, given by its name, is multiplied by."""
        return 1.0

    def export(self, model: "PreTrainedModel | PeftModel", folder: Path) -> None:
        """Write the result in the layout of `library`."""
        model.save_pretrained(str(folder))


def count_parameters(model: "Module") -> tuple[int, int]:
    """Trainable and total parameters; a 4-bit weight counts each of its packed values."""
    trainable = total = 0
    for parameter in model.parameters():
        packed = type(parameter).__name__ == "Params4bit"
        size = parameter.numel() * (2 * parameter.element_size() if packed else 1)
        total += size
        trainable += size if parameter.requires_grad else 0
    return trainable, total
