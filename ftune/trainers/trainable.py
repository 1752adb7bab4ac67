"""What a checkpoint holds of a model with an adapter: every trained parameter as it is, so that a resume is exact.

An adapter as peft saves it is a result, not a state: reparameterisations are folded in, pruned ranks are left out.
"""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from ftune.core.errors import CheckpointError
from ftune.peft.hook import TrainingHook

FILE = "trainable.safetensors"


def save_trainable(model: torch.nn.Module, hook: TrainingHook | None, folder: Path) -> None:
    """Write the trained parameters, and what the method's hook remembers, into a checkpoint folder."""
    state = {f"model.{name}": value.detach() for name, value in _trained(model).items()}
    remembered = hook.state() if hook else {}
    state |= {f"hook.{name}": value for name, value in remembered.items()}
    save_file({name: value.contiguous() for name, value in state.items()}, folder / FILE, metadata={"format": "pt"})


def load_trainable(model: torch.nn.Module, hook: TrainingHook | None, folder: Path) -> None:
    """Bring back what `save_trainable` wrote. Raises CheckpointError without it, or for other parameters."""
    if not (folder / FILE).is_file():
        raise CheckpointError(
            f"{folder}: no {FILE}, so it cannot be resumed exactly; start a new run with output_dir=..."
        )
    saved = load_file(folder / FILE)
    parameters = _trained(model)
    wanted = {f"model.{name}" for name in parameters}
    found = {name for name in saved if name.startswith("model.")}
    wrong = sorted(wanted ^ found) or [
        f"model.{name}" for name, value in parameters.items() if value.shape != saved[f"model.{name}"].shape
    ]
    if wrong:
        raise CheckpointError(f"{folder / FILE}: does not fit the model at {len(wrong)} parameters, first '{wrong[0]}'")
    with torch.no_grad():
        for name, value in parameters.items():
            value.copy_(saved[f"model.{name}"])
    if hook:
        hook.restore({name.removeprefix("hook."): value for name, value in saved.items() if name not in found})


def _trained(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    return {name: value for name, value in model.named_parameters() if value.requires_grad}
