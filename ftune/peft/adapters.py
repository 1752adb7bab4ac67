"""Trained adapters, loaded by peft whoever made them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from peft import PeftModel
    from torch.nn import Module
    from transformers import PreTrainedModel


@contextmanager
def loading_adapter(model: "Module") -> Iterator[None]:
    """Inside, peft puts a saved adapter on `model`, which then computes as it did when it was saved."""
    import ftune.peft.tuners  # noqa: F401 - makes ftune's own known to peft
    from ftune.peft.decomposed import follow_bases, same_decompositions

    with same_decompositions():
        yield
        follow_bases(model)


def load_adapter(base: "PreTrainedModel", folder: Path) -> "PeftModel":
    """`base` with the adapter in `folder` on it, frozen."""
    from peft import PeftModel

    from ftune.peft.virtual_tokens import padding_goes_first

    with loading_adapter(base):
        model = PeftModel.from_pretrained(base, str(folder))
    return padding_goes_first(model)


def saved_frozen(model: Any) -> Callable[[str], bool]:
    """Which parameters of an adapter's own are in its files although they may not train, by their names."""
    if not hasattr(model, "peft_config"):
        return lambda name: False
    # peft saves what an encoder of virtual tokens gives, which takes all of it
    own = ("prompt_encoder", getattr(model.base_model, "prefix", "prompt_encoder"))
    return lambda name: any(part in name for part in own)
