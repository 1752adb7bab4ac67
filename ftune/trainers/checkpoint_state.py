"""A run's state in a checkpoint: one format, from which all backends and numbers of processes can go on.

`state/` holds safetensors files with whole tensors by the names of their parameters, and `state.json`: where each
tensor is, and what is no tensor. All ranks write at the same time; nothing is ever unpickled.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ftune.core.checkpoints import storage_errors
from ftune.core.errors import CheckpointError, StorageError
from ftune.trainers.trained_state import TrainedState

STATE = "state/state.json"
TENSORS, MODEL = "state/tensors", "model"
"""How the names of files begin."""

MODEL_INDEX = "model.safetensors.index.json"
FORMAT = 1
FILE_BYTES = 2 * 2**30

Place = list[str]
"""Where a tensor is: its file, from the checkpoint's folder, and its key there."""


@dataclass(frozen=True, slots=True)
class Beside:
    """What a checkpoint holds beside trained parameters and the optimiser's state; the same on all ranks."""

    facts: dict[str, Any] = field(default_factory=dict)
    """Plain JSON: states of the schedule and of the loss scale."""
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    """What a PEFT method remembers."""


def save_state(
    state: TrainedState,
    folder: Path,
    *,
    rank: int,
    count: int,
    beside: Beside,
    buffers: Mapping[str, Tensor] | None = None,
    file_bytes: int = FILE_BYTES,
) -> None:
    """Write `state` into a checkpoint's folder, which is one folder for all `count` ranks. All have to call it.

    With `buffers` the whole model trains: its weights and these are laid out as transformers does it (`model-*` and
    an index), so that the checkpoint can be loaded as a model. One tensor is gathered at a time, and a rank holds one
    file of `file_bytes` at most, or one larger tensor.

    Raises StorageError when this rank could not write; only at the end, since the others need it for gathering.
    """
    files = _Files(folder, rank, count, file_bytes)
    names = state.names()
    if buffers is None:
        weights = {name: files.add(TENSORS, f"weights/{name}", state.weight(name)) for name in names}
    else:
        weights = {name: files.add(MODEL, name, state.weight(name)) for name in names}
        for name, value in buffers.items():
            files.add(MODEL, name, value)
        files.add_json(MODEL_INDEX, {"metadata": {"total_size": sum(files.given)}, "weight_map": dict(files.model)})
    optimizer = {
        name: {key: files.add(TENSORS, f"optimizer/{name}/{key}", value) for key, value in kept.items()}
        for name in names
        if (kept := state.optimizer(name))
    }
    tensors = {name: files.add(TENSORS, f"beside/{name}", value) for name, value in beside.tensors.items()}
    content = {"weights": weights, "optimizer": optimizer, "tensors": tensors}
    files.add_json(STATE, {"format": FORMAT, **content, "scalars": state.scalars(), "facts": beside.facts})
    files.close()


def load_state(state: TrainedState, folder: Path, *, only_weights: bool = False) -> Beside:
    """Bring back what `save_state` wrote, whatever wrote it, tensor by tensor. All ranks have to call it.

    Raises CheckpointError when it cannot be read or is not of these parameters.
    """
    content = _content(folder)
    names, found = state.names(), content["weights"]
    if wrong := sorted(set(names) ^ set(found)):
        why = "is not in the checkpoint" if wrong[0] in names else "does not train now"
        raise CheckpointError(f"{folder}: does not fit the model at {len(wrong)} parameters: '{wrong[0]}' {why}")
    read = _Reader(folder)
    try:
        for name in names:
            state.put_weight(name, read(found[name]))
    except CheckpointError as error:
        raise CheckpointError(f"{folder}: {error}") from None
    if not only_weights:
        for name in names:
            state.put_optimizer(name, {key: read(place) for key, place in content["optimizer"].get(name, {}).items()})
        state.put_scalars(content["scalars"])
    return Beside(content["facts"], {name: read(place) for name, place in content["tensors"].items()})


class _Files:
    """The files of a checkpoint. Each tensor goes to the rank that has been given the fewest bytes until then.

    All ranks see the same tensors and so know, without asking, who writes what where.
    """

    def __init__(self, folder: Path, rank: int, count: int, file_bytes: int) -> None:
        self.folder, self.rank, self.file_bytes = folder, rank, file_bytes
        self.given = [0] * count
        """Bytes, by rank."""
        self.model: dict[str, str] = {}
        """Files of the model's own tensors."""
        self._filling = [("", 0)] * count  # the file that each rank is filling, and its bytes
        self._numbers: dict[str, int] = {}
        self._held: dict[str, Tensor] = {}
        self._failure: StorageError | None = None
        self._write(lambda: (folder / STATE).parent.mkdir(parents=True, exist_ok=True))

    def add(self, kind: str, key: str, value: Tensor) -> Place:
        """Write a tensor, or leave it to the rank that will; `kind` is how the file's name begins."""
        size = value.numel() * value.element_size()
        owner = self.given.index(min(self.given))
        self.given[owner] += size
        file, filled = self._filling[owner]
        if not file.startswith(kind) or filled + size > self.file_bytes:
            if owner == self.rank:
                self._flush()
            self._numbers[kind] = self._numbers.get(kind, 0) + 1
            file, filled = f"{kind}-{self._numbers[kind]:05}.safetensors", 0
        self._filling[owner] = file, filled + size
        if owner == self.rank and self._failure is None:  # a copy: one file cannot hold two views of one memory
            self._held[key] = value.detach().to("cpu", copy=True).contiguous()
        if kind == MODEL:
            self.model[key] = file
        return [file, key]

    def add_json(self, file: str, content: object) -> None:
        """Let the first rank write a small file."""
        if self.rank == 0:
            text = json.dumps(content)
            self._write(lambda: (self.folder / file).write_text(text, encoding="utf-8"))

    def close(self) -> None:
        """Write what is left. Raises StorageError for the first write that failed."""
        self._flush()
        if self._failure is not None:
            raise self._failure

    def _flush(self) -> None:
        held, self._held = self._held, {}
        if held:
            target = self.folder / self._filling[self.rank][0]
            self._write(lambda: save_file(held, target, metadata={"format": "pt"}))

    def _write(self, write: Callable[[], object]) -> None:
        if self._failure is None:
            try:
                with storage_errors(self.folder):
                    write()
            except StorageError as error:
                self._failure = error


class _Reader:
    """Reads tensors one by one; files stay mapped between them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._opened: dict[str, Any] = {}

    def __call__(self, place: Sequence[str]) -> Tensor:
        """A copy of the tensor. Raises CheckpointError where it cannot be read."""
        file, key = place
        try:
            if file not in self._opened:
                self._opened[file] = safe_open(self.folder / file, framework="pt")
            value: Tensor = self._opened[file].get_tensor(key)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{file}: '{key}' cannot be read ({error})") from None
        return value.clone()  # the file is mapped into memory: it may change, and is removed


def _content(folder: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads((folder / STATE).read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{folder}: cannot be resumed from ({error}); start a new run with output_dir=..."
        ) from None
    if content.get("format") != FORMAT:
        raise CheckpointError(f"{folder / STATE}: format {content.get('format')}; this ftune reads format {FORMAT}")
    return content
