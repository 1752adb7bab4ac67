"""One process on one device."""

from collections.abc import Iterator
from typing import Literal

from ftune.backends.base import Backend
from ftune.core.section import Location


class Single(Backend):
    """One process: the first GPU when there is one, else the CPU."""

    type: Literal["single"] = "single"
    """One process on one device."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes a GPU when there is one; `cpu` and `cuda` insist."""

    def faults(self) -> Iterator[tuple[Location, str]]:
        """A GPU that was insisted on but is not there."""
        from pathlib import Path

        if self.device == "cuda" and not any(Path("/dev").glob("nvidia[0-9]*")) and not Path("/dev/dxg").exists():
            yield ("device",), "no CUDA device on this machine; use 'auto' or 'cpu'"

    def training_args(self) -> dict[str, object]:
        """`use_cpu` where the CPU is insisted on."""
        return {"use_cpu": self.device == "cpu"}
