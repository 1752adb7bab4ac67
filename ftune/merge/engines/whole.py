"""A whole model as a source of changed weights."""

from collections.abc import Collection, Iterator, Sequence

import torch

from ftune.core.errors import ModelError
from ftune.merge.checkpoint import Checkpoint
from ftune.merge.engines.layout import Layout
from ftune.merge.engines.skeleton import Skeleton
from ftune.merge.engines.stream import read_base


class ModelSource:
    """All weights of a model that has the architecture of the base."""

    def __init__(self, checkpoint: Checkpoint, model: Skeleton, base: Checkpoint, layout: Layout) -> None:
        """`layout` is that of the base. Raises ModelError where its tensors are not the base's, by name and shape."""
        own = Layout(checkpoint, model)
        self._names, self._read = set(model.names), read_base(own, model.ties)
        misfits = []
        for name in model.names:
            theirs, ours = ([part.stored.shape for part in one.parts(name)] for one in (own, layout))
            if not ours:
                continue
            if not theirs and name not in model.ties:
                misfits.append(f"'{name}' is not there")
            elif theirs and theirs != ours:
                misfits.append(f"'{name}' is {_shown(theirs)}, not {_shown(ours)}")
        known = own.names.keys() | layout.names.keys()
        misfits += _others(checkpoint, base, known, type(model.model).__name__)
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


def _others(checkpoint: Checkpoint, base: Checkpoint, known: Collection[str], kind: str) -> Iterator[str]:
    """Tensors that are no parameters of the model, and so would be taken from the base: they have to be the same."""
    for name in sorted((checkpoint.tensors.keys() | base.tensors.keys()) - set(known)):
        theirs, ours = checkpoint.tensors.get(name), base.tensors.get(name)
        if theirs is None or ours is None:
            yield f"'{name}' is {'not there' if theirs is None else 'not in the base'}"
        elif not torch.equal(theirs.read(), ours.read()):
            yield f"'{name}' differs, and is no parameter of a {kind}"


def _shown(shapes: Sequence[tuple[int, ...]]) -> str:
    """The shape of a parameter; of one that the files hold in several tensors how many there are, too."""
    return f"{shapes[0]}" if len(shapes) == 1 else f"{len(shapes)} x {shapes[0]}"
