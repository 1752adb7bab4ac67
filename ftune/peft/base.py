"""What every method of parameter-efficient fine-tuning provides."""

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

from ftune.core.section import Section

if TYPE_CHECKING:
    from peft import PeftModel
    from torch.nn import Module
    from transformers import PreTrainedModel


class PeftMethod(Section):
    """A method: its fields are its recipe keys, `wrap` applies it.

    To add one, add a file beside this one with a subclass that has a `type` field; nothing else needs an edit.
    """

    library: ClassVar[str] = "peft"
    """The library that loads the result: `peft` for an adapter, `transformers` for a whole model."""

    trains_base: ClassVar[bool] = False
    """Whether the model's own weights train; they are then kept in fp32."""

    default_learning_rate: ClassVar[float] = 2e-4
    """What `optim.learning_rate: auto` means with this method."""

    @abstractmethod
    def wrap(self, model: "PreTrainedModel") -> "PreTrainedModel | PeftModel":
        """The model with only this method's parameters trainable, in fp32.

        Raises ModelError when the model has nothing that the method could train.
        """


def count_parameters(model: "Module") -> tuple[int, int]:
    """Trainable and total parameters; a 4-bit weight counts each of its packed values."""
    trainable = total = 0
    for parameter in model.parameters():
        packed = type(parameter).__name__ == "Params4bit"
        size = parameter.numel() * (2 * parameter.element_size() if packed else 1)
        total += size
        trainable += size if parameter.requires_grad else 0
    return trainable, total
