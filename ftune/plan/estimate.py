"""What a run needs: bytes by part and by phase, on each rank."""

from dataclasses import dataclass, field

from ftune.plan import activations
from ftune.plan.job import Job
from ftune.plan.overhead import reserved
from ftune.plan.phase import Parts, Phase, phase
from ftune.plan.rollouts import ppo_phases
from ftune.plan.states import states
from ftune.plan.training import training_phases
from ftune.plan.weights import frozen_bytes, offloaded_bytes, stored_bytes

FP32 = 4


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
    taken: float = 0.0
    """Part of the device's memory that another program of the run has for itself: vLLM."""

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
        return self.total <= usable * (1 - self.taken)


def estimate(job: Job) -> Estimate:
    """What a job needs on each rank.

    Its peak is at one of few moments: while the model is loaded, at the head, in the backward pass of the last or the
    first layer, at the optimiser's step; and in PPO while completions are made or judged. Each is added up by itself.
    """
    phases = (_loading(job), *(ppo_phases(job) if job.kind == "ppo" else training_phases(job)))
    kept, frozen = states(job), offloaded_bytes(job)
    on_disk = job.spread.parameters == "nvme"
    host = phase(
        "",
        {
            "optimizer and trained weights": kept.host,
            "frozen weights": 0 if on_disk else frozen,
            "the model, until it is split": _whole(job) if job.split else 0,
            "activations": activations.away(job),
        },
    )
    disk = phase("", {"optimizer and trained weights": kept.disk, "frozen weights": frozen if on_disk else 0})
    taken = job.roles.gpu_share if job.roles else 0.0
    return Estimate(phases, reserved(job, max(moment.bytes for moment in phases)), host.parts, disk.parts, taken)


def _loading(job: Job) -> Phase:
    """The model as it comes from its files: whole, but for FSDP2, which brings it layer by layer.

    For virtual tokens peft 0.21 makes two copies of the embedding, one of them in fp32, and drops them.
    """
    if job.split:
        return phase("loading", {"weights": frozen_bytes(job) + states(job).weights})
    copied = (job.width + FP32) * job.shape.embedding_parameters if job.adapter.virtual_tokens else 0
    return phase("loading", {"weights": _whole(job), "in passing": copied})


def _whole(job: Job) -> int:
    """The model with what a method has added to it."""
    added = FP32 * (job.adapter.parameters + job.adapter.frozen)
    if job.full:
        return FP32 * job.shape.parameters + added
    stored = stored_bytes(job.shape, job.dtype, job.quantization, double_quant=job.double_quant)
    return stored + (FP32 - job.width) * job.adapter.base + added
