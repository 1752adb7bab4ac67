"""A model written tensor by tensor: what no source changes is copied, the rest is computed in fp32 and rounded once."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from transformers import PreTrainedConfig

from ftune.core.errors import ModelError
from ftune.merge.checkpoint import Checkpoint
from ftune.merge.engines.layout import Layout
from ftune.merge.engines.skeleton import Skeleton
from ftune.merge.tensors import TORCH_NAMES, ShardWriter, Stored, order_of

Combine = Callable[[Sequence[torch.Tensor], torch.Generator], torch.Tensor]
"""One tensor of the tensors of several sources, all in fp32."""

Read = Callable[[str], torch.Tensor | None]
"""A parameter of the base in its own dtype, by its name, in memory of its own; None for one that the base has not."""

Progress = Callable[[int], None]
"""Told the bytes of each tensor of the base that is done."""


class Source(Protocol):
    """Where changed weights come from."""

    def touches(self, name: str) -> bool:
        """Whether it changes this parameter."""

    def merged(self, name: str, dtype: torch.dtype) -> torch.Tensor:
        """A parameter that it changes, computed in fp32 and rounded once to `dtype`; each is asked for once."""

    def made(self) -> Iterator[str]:
        """Parameters that only it has, once all others have been asked for."""

    @property
    def config(self) -> PreTrainedConfig | None:
        """The model's configuration, with what its changes demand of it; None where they demand nothing."""


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be written."""

    base: Checkpoint
    layout: Layout
    """Of the base's files."""
    model: Skeleton
    """Of the base; its names of parameters count."""
    sources: Sequence[Source]
    combine: Combine | None
    """None for one source that is taken as it is."""
    whole: bool
    """Whether the sources' weights are combined, and not what they changed of the base's."""
    dtype: str
    """Torch's name of the dtype that is written; empty for the base's own."""
    seed: int
    read: Read
    replaced: frozenset[str] = frozenset()
    """Parameters that `read` gives otherwise than the files hold them, and that are written so."""


@dataclass(slots=True)
class Written:
    """What became of a model."""

    changed: int = 0
    copied: int = 0
    made: list[str] = field(default_factory=list)
    """Tensors that the base does not have."""
    dropped: list[str] = field(default_factory=list)
    """Tensors of the base that the model has no place for."""
    untied: bool = False
    """Whether tied parameters have become different."""


def read_base(layout: Layout, ties: Mapping[str, str]) -> Read:
    """Reads parameters of the base; tied ones where the files hold them."""

    def read(name: str) -> torch.Tensor | None:
        value = layout.read(name)
        return layout.read(ties[name]) if value is None and name in ties else value

    return read


def write_model(job: Job, writer: ShardWriter, progress: Progress) -> Written:
    """Write all tensors of the merged model. Raises ModelError for one that is empty or not finite."""
    done, base = Written(), job.base
    parameters = job.layout.names
    _check_all_there(job, parameters)
    partners: dict[str, list[str]] = {}
    for partner, other in job.model.ties.items():
        if not job.layout.parts(partner):
            partners.setdefault(other, []).append(partner)
    tensors, held = list(order_of(base.tensors)), dict[str, torch.Tensor]()
    for place, stored in enumerate(tensors):
        if place + 1 < len(tensors):
            tensors[place + 1].expect()
        name = parameters.get(stored.name)
        if name is None and job.model.classifier:  # the output layer, which a classifier does not have
            done.dropped.append(stored.name)
        else:
            _write_one(job, writer, stored, name, partners.get(name, []) if name else [], done, held)
        progress(stored.size)
    for name in dict.fromkeys(name for source in job.sources for name in source.made()):
        writer.write(name, _checked(name, _combined(job, name, _main_dtype(job))))
        done.made.append(name)
    return done


def _write_one(
    job: Job,
    writer: ShardWriter,
    stored: Stored,
    name: str | None,
    partners: Sequence[str],
    done: Written,
    held: dict[str, torch.Tensor],
) -> None:
    """A tensor of the base and those that are tied to it, which are written only where they have become different.

    `held` keeps the other tensors of a parameter that the files hold in several until their turn comes.
    """
    dtype = _dtype(job, stored)
    touched = name is not None and _touched(job, name)
    partners = [other for other in partners if touched or _touched(job, other)]
    if touched and name is not None:
        if stored.name not in held:
            held |= job.layout.apart(name, _combined(job, name, dtype))
        result = held.pop(stored.name)
        done.changed += 1
    else:
        replaced = job.read(name) if name in job.replaced else None
        result = (stored.read() if replaced is None else replaced).to(dtype)
        done.copied += replaced is None
        done.changed += replaced is not None
    writer.write(stored.name, _checked(stored.name, result, stored))
    for other in partners:
        twin = _combined(job, other, dtype) if _touched(job, other) else stored.read().to(dtype)
        if not torch.equal(twin, result):
            writer.write(other, _checked(other, twin))
            done.made.append(other)
            done.untied = True


def _combined(job: Job, name: str, dtype: torch.dtype) -> torch.Tensor:
    """A parameter that some source changes, rounded once to `dtype`; the base's is zero where it has none."""
    sources = [source if source.touches(name) else None for source in job.sources]
    if job.combine is None:
        return next(source for source in sources if source).merged(name, dtype)
    merged = [source.merged(name, torch.float32) if source else None for source in sources]
    base = job.read(name)
    shape = next(one for one in merged if one is not None).shape
    base = torch.zeros(shape) if base is None else base.float()
    draw = torch.Generator().manual_seed(_seed(job.seed, name))
    tensors = [base if one is None else one for one in merged]
    if job.whole:
        return job.combine(tensors, draw).to(dtype)
    return (base + job.combine([one - base for one in tensors], draw)).to(dtype)


def _seed(seed: int, name: str) -> int:
    """Draws for a tensor do not depend on the order in which tensors are written."""
    return int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:7], "little")


def _dtype(job: Job, stored: Stored) -> torch.dtype:
    own: torch.dtype = getattr(torch, TORCH_NAMES[stored.dtype])
    asked: torch.dtype = getattr(torch, job.dtype) if job.dtype else own
    return asked if own.is_floating_point else own


def _main_dtype(job: Job) -> torch.dtype:
    """What tensors are written in that the base does not have: its largest tensor's dtype."""
    return _dtype(job, max(job.base.tensors.values(), key=lambda one: one.size))


def _check_all_there(job: Job, parameters: dict[str, str]) -> None:
    """Raises ModelError where the base's files lack a parameter that nobody brings along.

    Where they hold tensors of other names too, the model may be stored in another way than it is built.
    """
    ties, there = job.model.ties, set(parameters.values())
    there |= {name for pair in ties.items() if there & set(pair) for name in pair}
    absent = [name for name in job.model.names if name not in there and not _touched(job, name)]
    if absent and job.base.tensors.keys() == parameters.keys():
        names = ", ".join(f"'{name}'" for name in absent[:3])
        raise ModelError(
            f"{job.base.folder}: its files lack {len(absent)} tensors, first {names}; fetch the model again"
        )


def _touched(job: Job, name: str) -> bool:
    return any(source.touches(name) for source in job.sources)


def _checked(name: str, value: torch.Tensor, stored: Stored | None = None) -> torch.Tensor:
    """The value that is written. Raises ModelError for one that is empty or not finite; `stored` is the base's."""
    if value.numel() == 0:
        raise ModelError(f"'{name}' would be empty")
    if value.is_floating_point():
        low, high = (float(end) for end in value.aminmax())
        if not (abs(low) < float("inf") and abs(high) < float("inf")):  # NaN is refused too
            raise ModelError(_not_finite(name, value, stored))
    return value


def _not_finite(name: str, value: torch.Tensor, stored: Stored | None) -> str:
    if stored is not None and not bool(stored.read().isfinite().all()):
        return f"{stored.file}: '{name}' holds values that are not finite; fetch it again"
    if value.dtype == torch.float16:
        return f"dtype: '{name}' would hold values that are too large for fp16; choose --dtype bf16 or fp32"
    return f"'{name}' would hold values that are not finite; look at the weights of the sources"
