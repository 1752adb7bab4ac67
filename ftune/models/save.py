"""Results in the standard layout of peft or transformers, and proof that what was written is whole."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ftune.core.checkpoints import commit_folder, stage_folder, writing
from ftune.core.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def save_result(
    export: Callable[[Path], None], tokenizer: "PreTrainedTokenizerBase", chat_template: str | None, target: Path
) -> None:
    """Write model or adapter, tokenizer and chat template to `target`, which appears only when complete.

    `export` writes the model or adapter into a folder. Raises ModelError when a written tensor is empty or not finite,
    StorageError when the disk refuses.
    """
    staging = stage_folder(target)
    with writing(staging):
        if chat_template is not None:
            tokenizer.chat_template = chat_template
        export(staging)
        tokenizer.save_pretrained(staging)
        if (staging / "README.md").is_file():  # peft's empty model card; the run's own lies above
            (staging / "README.md").unlink()
        _check(staging)
    commit_folder(staging, target)


def _check(folder: Path) -> None:
    import torch
    from safetensors import safe_open

    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelError(f"{folder}: no weights were written")
    for file in files:
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - not a mapping
                tensor = opened.get_tensor(name)
                if tensor.numel() == 0 or not bool(torch.isfinite(tensor).all()):
                    raise ModelError(f"{file.name}: tensor '{name}' is empty or not finite; the result is not saved")
