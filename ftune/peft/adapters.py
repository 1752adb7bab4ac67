"""Trained adapters, loaded by peft whoever made them."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


def load_adapter(base: "PreTrainedModel", folder: Path) -> "PeftModel":
    """`base` with the adapter in `folder` on it, frozen."""
    from peft import PeftModel

    import ftune.peft.tuners  # noqa: F401 - makes ftune's own known to peft
    from ftune.peft.decomposed import follow_bases, same_decompositions
    from ftune.peft.virtual_tokens import padding_goes_first

    with same_decompositions():
        model = PeftModel.from_pretrained(base, str(folder))
        follow_bases(model)
    return padding_goes_first(model)


def saved_frozen(model: Any) -> Callable[[str], bool]:
    """Which parameters of an adapter's own are in its files although they may not train, by their names."""
    if not hasattr(model, "peft_config"):
        return lambda name: False
    # peft saves what an encoder of virtual tokens gives, which takes all of it
    own = ("prompt_encoder", getattr(model.base_model, "prefix", "prompt_encoder"))
    return lambda name: any(part in name for part in own)
