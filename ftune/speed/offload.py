"""Inputs of checkpointed layers in the CPU's memory from the forward pass to the backward pass.

Checkpointing keeps a layer's input and computes the rest again (arXiv:1604.06174, section 3); what is left grows with
tokens and layers alone. A GPU copies it out while it computes the next layers, and brings each back while it computes
the layer behind it again: two of them are there at a time.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Optional
from weakref import ref

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from ftune.backends.engines.sharding import device_of
from ftune.core.errors import ModelError
from ftune.speed.compiled import decoder_layers, of_class

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LARGE = 2**20
"""Bytes from which on a tensor is worth the way."""


class Parked:
    """A tensor that is away, and the one that left before it, which is wanted after it."""

    def __init__(self, value: Tensor, side: Any, before: Optional["Parked"]) -> None:
        """`side` is the stream of copies, which wait for what has been computed; None on a CPU."""
        self.before, self._side, self._device = before, side, value.device
        self._back: Tensor | None = None
        if side is None:
            self._away = value.clone()
            return
        self._away = torch.empty_like(value, device="cpu", pin_memory=True)
        with self._beside():
            self._away.copy_(value, non_blocking=True)
        value.record_stream(side)

    def fetch(self) -> Tensor:
        """Begin to bring it back; what comes is not to be read yet."""
        if self._back is None:
            self._back = torch.empty_like(self._away, device=self._device) if self._side else self._away
            if self._side is not None:
                with self._beside():
                    self._back.copy_(self._away, non_blocking=True)
        return self._back

    def taken(self) -> Tensor:
        """The tensor, for what is computed from now on."""
        back = self.fetch()
        if self._side is not None:
            torch.cuda.current_stream(self._device).wait_stream(self._side)
        return back

    @contextmanager
    def _beside(self) -> Iterator[None]:
        self._side.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._side):
            yield


class Away:
    """What autograd keeps of layers, and where."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._side: Any = None
        if device.type == "cuda":
            self._side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._last: Any = lambda: None
        self.count = 0
        """Tensors that went away."""

    def pack(self, value: Tensor) -> Any:
        """What is kept of a tensor."""
        if value.nbytes < LARGE or value.device.type != self._device.type:
            return value
        parked = Parked(value, self._side, self._last())
        self._last = ref(parked)
        self.count += 1
        return parked

    def unpack(self, kept: Any) -> Any:
        """The tensor again; the one that is wanted next sets out."""
        if not isinstance(kept, Parked):
            return kept
        value = kept.taken()
        if kept.before is not None:
            kept.before.fetch()
            kept.before = None
        return value


@contextmanager
def offloaded_inputs(model: "PreTrainedModel") -> Iterator[Away]:
    """The model with layers whose inputs are away between the passes; behind, they are as they were.

    It is for layers that are checkpointed as a whole; what is compiled is entered within. Raises ModelError where the
    model does not say which layers it repeats.
    """
    layers = decoder_layers(model)
    if not layers:
        raise ModelError("batch.activation_offload: the model does not say which layers it repeats; set it to false")
    away = Away(device_of(model))
    with of_class(layers, _offloading(type(layers[0]), away)):
        yield away


def _offloading(plain: Any, away: Away) -> type:
    def call(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if not (self.training and torch.is_grad_enabled() and getattr(self, "gradient_checkpointing", False)):
            return plain.__call__(self, *args, **kwargs)
        with saved_tensors_hooks(away.pack, away.unpack):
            return plain.__call__(self, *args, **kwargs)

    return type(plain.__name__, (plain,), {"__call__": call})
