"""What a run needs: bytes by part and by phase, on each rank."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ftune.plan.job import Job

Parts = Mapping[str, int]
"""Bytes by the name of what they hold."""


@dataclass(frozen=True, slots=True)
class Phase:
    """A moment of a run, with everything that is in the device's memory then."""

    name: str
    """`loading`, `forward`, `backward`, `step`, `rollout`, `scoring`."""
    parts: Parts

    @property
    def bytes(self) -> int:
        """All of it."""
        return sum(self.parts.values())


@dataclass(frozen=True, slots=True)
class Estimate:
    """What each rank needs. `parts` are those of the phase that needs most, so they add up to `peak`."""

    phases: tuple[Phase, ...]
    reserved: int
    """Bytes on the device beside the peak: the CUDA context, NCCL, what the allocator loses to fragments."""
    host: Parts = field(default_factory=dict)
    """Bytes in the CPU's memory, of one rank."""
    disk: Parts = field(default_factory=dict)
    """Bytes on the NVMe drive, of one rank."""

    @property
    def largest(self) -> Phase:
        """The phase that needs most."""
        return max(self.phases, key=lambda phase: phase.bytes)

    @property
    def parts(self) -> Parts:
        """Bytes by part at the peak."""
        return self.largest.parts

    @property
    def peak(self) -> int:
        """Bytes of tensors at the peak: what `torch.cuda.max_memory_allocated` will say."""
        return self.largest.bytes

    @property
    def total(self) -> int:
        """Bytes of the device that the run takes at its peak."""
        return self.peak + self.reserved

    def fits(self, usable: int) -> bool:
        """Whether a device with that many usable bytes can hold it."""
        return self.total <= usable


def estimate(job: Job) -> Estimate:
    """What a job needs on each rank."""
    raise NotImplementedError(job)
