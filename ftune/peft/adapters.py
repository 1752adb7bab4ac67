"""Trained adapters, loaded by peft whoever made them."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


def load_adapter(base: "PreTrainedModel", folder: Path) -> "PeftModel":
    """`base` with the adapter in `folder` on it, frozen."""
    from peft import PeftModel

    import ftune.peft.tuners  # noqa: F401 - makes ftune's own known to peft
    from ftune.peft.virtual_tokens import padding_goes_first

    return padding_goes_first(PeftModel.from_pretrained(base, str(folder)))
