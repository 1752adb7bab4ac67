"""Whether the disk has room for what a run will write, asked before its first step."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from ftune.core.errors import StorageError
from ftune.core.paths import shown
from ftune.core.say import Say

STATE_BYTES = {
    "adamw_torch_fused": 8.0,
    "adamw_bf16": 4.0,
    "paged_adamw_32bit": 8.0,
    "adamw_8bit": 2.1,
    "paged_adamw_8bit": 2.1,
}
"""Bytes of an optimiser's state for a parameter, by transformers' name of it; the others keep next to nothing."""


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes that a run will write."""

    checkpoint: int
    result: int

    def check(self, run_dir: Path, keep: int, say: Say) -> None:
        """Warn where not all of `keep` checkpoints fit, one more while the newest is written, and the result.

        Raises StorageError where not even one checkpoint and the result do.
        """
        free = shutil.disk_usage(run_dir).free
        wanted = self.result + (keep + 1) * self.checkpoint
        if free >= wanted:
            return
        found = (
            f"output_dir: {_gib(free)} free at {shown(run_dir)}; the result takes {_gib(self.result)} and a checkpoint "
            f"{_gib(self.checkpoint)}"
        )
        if free < self.result + self.checkpoint:
            raise StorageError(f"{found}, so they could not be saved; make room, or choose another output_dir")
        say.warning(
            f"{found}: {keep} checkpoints and one in the making need {_gib(wanted)}; make room or set checkpoint.keep=1"
        )


def need_of(model: torch.nn.Module, optimizer: str, *, checkpoints: bool) -> Need:
    """What a run writes that trains `model` as it is, with transformers' `optimizer` or ftune's `adamw_bf16`.

    `checkpoints`: whether there are any.
    """
    trained = sum(_numel(parameter) for parameter in model.parameters() if parameter.requires_grad)
    width = 2 if optimizer == "adamw_bf16" else 4  # all others keep what trains in fp32
    checkpoint = round(trained * (width + STATE_BYTES.get(optimizer, 0.0))) if checkpoints else 0
    return Need(checkpoint, trained * width)


def _numel(parameter: torch.nn.Parameter) -> int:
    """Of the whole parameter: DeepSpeed leaves an empty one where it has put the parts elsewhere."""
    return int(getattr(parameter, "ds_numel", parameter.numel()))


def _gib(size: float) -> str:
    return f"{size / 2**30:,.1f} GiB" if size >= 2**30 else f"{size / 2**20:,.1f} MiB"
