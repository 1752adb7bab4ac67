"""Where a run stands between two iterations, and its checkpoints: everything that a resumed run goes on with.

There is no random state to keep: prompts, draws and minibatches follow from the seed and the iteration.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ftune.backends.engines.sharding import gathered_values, like, trained
from ftune.core.checkpoints import commit, commit_folder, rotate, stage, stage_folder, writing
from ftune.core.errors import CheckpointError

if TYPE_CHECKING:
    from ftune.ppo.actor_critic import ActorCritic

WEIGHTS, OPTIMIZER, STATE = "trainable.safetensors", "optimizer.pt", "state.json"


@dataclass(slots=True)
class State:
    """Counters and controllers."""

    iteration: int = 0
    """Iterations that are done."""
    steps: int = 0
    """Optimiser steps that were taken or skipped."""
    coefficient: float = 0.0
    """Of the KL penalty."""
    moments: dict[str, float] = field(default_factory=dict)
    """Running moments of the scores."""
    above_kl: int = 0
    """Iterations in a row above `max_kl`."""
    below_entropy: int = 0
    """Iterations in a row below `min_entropy`."""
    ended_by: str = ""
    """The guard that ended the run, in words: a run that was killed before its result was written goes no further."""
    bad_updates: int = 0
    """Iterations in a row in which no optimiser step could be taken."""
    same_scores: int = 0
    """Iterations in a row in which all completions had one score."""
    first_look: dict[str, float] = field(default_factory=dict)
    """What held-out completions were like before training; see `check_drift`."""
    drift_told: bool = False
    best_score: float | None = None
    best_iteration: int | None = None
    evaluated: int | None = None
    """Iteration whose policy completed the held-out prompts last."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Tensors of a checkpoint, whole, also where the model is split over ranks."""

    weights: dict[str, Tensor]
    optimizer: dict[str, Any]


def snapshot(actor: "ActorCritic", optimizer: torch.optim.Optimizer | None, *, keep: bool) -> Snapshot:
    """What trains, and the optimiser's state. Every rank has to call it; without `keep` the result is empty."""
    weights = gathered_values(trained(actor), keep=keep)
    if optimizer is None:
        return Snapshot(weights, {})
    state = optimizer.state_dict()
    states = {number: gathered_values(values, keep=keep) for number, values in state["state"].items()}
    return Snapshot(weights, {**state, "state": states})


def save_checkpoint(run_dir: Path, state: State, taken: Snapshot, *, keep: int, facts: dict[str, object]) -> Path:
    """Write `checkpoint-ITERATION`, whole or not at all, and remove old ones. Raises StorageError."""
    target = run_dir / f"checkpoint-{state.iteration}"
    staging = stage(run_dir, state.iteration)
    with writing(staging):
        _save_weights(taken.weights, staging)
        torch.save(taken.optimizer, staging / OPTIMIZER)
        (staging / STATE).write_text(json.dumps(asdict(state), indent=1) + "\n", encoding="utf-8")
    commit(staging, target, {"step": state.iteration, **facts})
    rotate(run_dir, keep, protect=[target])
    return target


def load_checkpoint(folder: Path, actor: "ActorCritic", optimizer: torch.optim.Optimizer) -> State:
    """Bring back what `save_checkpoint` wrote, on every rank. Raises CheckpointError when it does not fit."""
    try:
        state = State(**json.loads((folder / STATE).read_text(encoding="utf-8")))
        saved: dict[str, Any] = torch.load(folder / OPTIMIZER, map_location="cpu", weights_only=True)
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{folder}: cannot be resumed from ({error}); start a new run") from None
    load_weights(folder, actor)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for number, values in saved["state"].items():
        place = parameters[number]
        for name, value in values.items():
            if isinstance(value, Tensor) and value.shape == place.shape:
                values[name] = like(value, place)
    try:
        optimizer.load_state_dict(saved)
    except ValueError as error:  # groups of another size
        raise CheckpointError(f"{folder}: its optimiser does not fit ({error}); start a new run") from None
    return state


def save_best(run_dir: Path, weights: dict[str, Tensor]) -> None:
    """Keep these trained parameters in `best/`. Raises StorageError."""
    staging = stage_folder(run_dir / "best")
    with writing(staging):
        _save_weights(weights, staging)
    commit_folder(staging, run_dir / "best")


def load_weights(folder: Path, actor: "ActorCritic") -> None:
    """Put trained parameters of a checkpoint or of `best/` into the model. Raises CheckpointError for others."""
    actor.load_trainable(load_file(folder / WEIGHTS))


def _save_weights(weights: dict[str, Tensor], folder: Path) -> None:
    state = {name: value.contiguous() for name, value in weights.items()}
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})
