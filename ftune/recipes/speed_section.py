"""The `speed` section: what makes training fast without changing its result, and `fp8`, which changes it."""

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Literal, Self

from pydantic import model_validator

from ftune.core.section import Location, Section


class Speed(Section):
    """What makes training fast: `auto` is on where it is exact, and the run says where not."""

    packed_attention: Literal["auto", "off"] = "auto"
    """Compute each micro-batch as one sequence without padding, with attention within rows alone."""

    folded_lora: Literal["auto", "off"] = "auto"
    """Compute LoRA's adapters within the products of their layers, and layers with one input as one product."""

    compiled_layers: Literal["auto", "on", "off"] = "auto"
    """Compile the decoder layers (4 to 12 seconds at the start on an H100, less where kernels are in the cache). `auto`
    does so on a GPU for runs of more than a minute by the arithmetic of `ftune plan`, and for all with FP8."""


class SftSpeed(Speed):
    """What makes training fast: `auto` is on where it is exact, and the run says where not; `fp8` is asked for."""

    fused_loss: Literal["auto", "off"] = "auto"
    """Compute loss and gradient without logits of the whole batch, of tokens that train alone."""

    fp8: Literal["off", "tensorwise", "rowwise"] = "off"
    """Compute the products of the decoder layers in 8 bit floating point, which changes the result: for `peft: full`
    on GPUs of compute capability 8.9 and later, alone or with DDP. Numbers share a scale within a tensor, which is the
    faster way, or within a row, which is the finer one."""

    @model_validator(mode="after")
    def _fp8_in_compiled_layers(self) -> Self:
        needed = ("packed_attention", "fused_loss", "compiled_layers")
        if self.fp8 != "off" and (off := [key for key in needed if getattr(self, key) == "off"]):
            raise ValueError(
                f"fp8: '{self.fp8}' is fast in compiled layers alone, and these are for flat batches with a loss of "
                f"their own; remove '{off[0]}: off', or set 'fp8: off'"
            )
        return self

    def faults(self) -> Iterator[tuple[Location, str]]:
        """A missing torchao."""
        if self.fp8 != "off" and find_spec("torchao") is None:
            yield ("fp8",), f"'{self.fp8}' needs torchao; pip install 'ftune[torchao]' or use 'off'"
