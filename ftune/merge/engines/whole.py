"""A whole model as a source of changed weights."""

from collections.abc import Iterator

import torch

from ftune.core.errors import ModelError
from ftune.merge.checkpoint import Checkpoint
from ftune.merge.engines.skeleton import Skeleton
from ftune.merge.engines.stream import read_base


class ModelSource:
    """All weights of a model that has the architecture of the base."""

    def __init__(self, checkpoint: Checkpoint, model: Skeleton, base: Checkpoint) -> None:
        """Raises ModelError where its tensors are not those of the base, by name and shape."""
        self._names, self._read = set(model.names), read_base(checkpoint, model)
        misfits = []
        for name in model.names:
            theirs, ours = (one.find(name, model.prefix) for one in (checkpoint, base))
            if ours is None:
                continue
            if theirs is None and name not in model.ties:
                misfits.append(f"'{name}' is not there")
            elif theirs is not None and theirs.shape != ours.shape:
                misfits.append(f"'{name}' is {theirs.shape}, not {ours.shape}")
        misfits += _others(checkpoint, base, model)
        if misfits:
            raise ModelError(
                f"{checkpoint.folder}: does not have the tensors of {base.folder}: {'; '.join(misfits[:3])}"
                + (f"; and {len(misfits) - 3} more" if len(misfits) > 3 else "")
            )

    def touches(self, name: str) -> bool:
        """Whether the model has this parameter."""
        return name in self._names

    def merged(self, name: str, dtype: torch.dtype) -> torch.Tensor:
        """The model's own parameter. Raises ModelError where its files lack it."""
        if (value := self._read(name)) is None:
            raise ModelError(f"'{name}' is in no file of one of the models")
        return value.to(dtype)

    def made(self) -> Iterator[str]:
        """It has nothing that the base does not have."""
        yield from ()

    @property
    def config(self) -> None:
        """It demands nothing of the base's configuration."""


def _others(checkpoint: Checkpoint, base: Checkpoint, model: Skeleton) -> Iterator[str]:
    """Tensors that are no parameters of the model, and so would be taken from the base: they have to be the same."""
    known = {
        one.name for folder in (checkpoint, base) for name in model.names if (one := folder.find(name, model.prefix))
    }
    for name in sorted((checkpoint.tensors.keys() | base.tensors.keys()) - known):
        theirs, ours = checkpoint.tensors.get(name), base.tensors.get(name)
        if theirs is None or ours is None:
            yield f"'{name}' is {'not there' if theirs is None else 'not in the base'}"
        elif not torch.equal(theirs.read(), ours.read()):
            yield f"'{name}' differs, and is no parameter of a {type(model.model).__name__}"
