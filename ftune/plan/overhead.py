"""What a run takes beside its own tensors: kernels' workspaces, the CUDA context, NCCL, and holes in the memory."""

from ftune.plan.job import Job

MIB = 2**20
WORKSPACES = 128 * MIB
"""Of cuBLAS and of fused kernels, inputs of a step, and what is left of one: measured as 0.1 to 0.2 GiB on H100
and H200 (torch 2.11) where everything else is known exactly."""

CONTEXT = 600 * MIB
"""The CUDA context with the modules that are loaded, outside of PyTorch's count."""

NCCL = 1024 * MIB
"""Channels and buffers of NCCL for each process of several."""

FRAGMENTS = 0.05
"""Of the peak: what PyTorch's allocator holds and cannot use. Measured with 8B models: 2 to 8 %, 4 % for 120 GiB."""


def reserved(job: Job, peak: int) -> int:
    """Bytes of the device beside a peak of so many bytes."""
    return CONTEXT + (NCCL if job.spread.world > 1 else 0) + int(FRAGMENTS * peak)
