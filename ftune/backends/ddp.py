"""Distributed data parallelism: each process has the whole model, gradients are averaged."""

from typing import Any, Literal

from ftune.backends.distributed import Count, Distributed, common_config
from ftune.backends.shape import Shape


class Ddp(Distributed):
    """The whole model on each device, gradients averaged (PyTorch DDP)."""

    type: Literal["ddp"] = "ddp"
    """The whole model on each device, gradients averaged (PyTorch DDP)."""

    bucket_mib: Count = 25
    """MiB of gradients that are averaged in one message, while the rest is still being computed."""

    find_unused_parameters: bool = False
    """Look for parameters that a step did not use, as experts that got no token in a mixture of experts; costs time."""

    def accelerate_config(self, shape: Shape) -> dict[str, Any]:
        """Several processes.

        accelerate 1.15 starts one process only for MULTI_CPU without MPI, and torchrun's for MULTI_GPU, on CPUs too.
        """
        kind = "MULTI_GPU" if shape.world_size > 1 else "NO"
        return common_config(shape, kind) | {"mixed_precision": shape.mixed_precision}

    def wrapper_settings(self) -> dict[str, object]:
        """What torch's DistributedDataParallel gets, by its own names."""
        return {"bucket_cap_mb": self.bucket_mib, "find_unused_parameters": self.find_unused_parameters}

    def training_args(self) -> dict[str, object]:
        """The device, and the settings of DDP."""
        return {**super().training_args(), **{f"ddp_{name}": value for name, value in self.wrapper_settings().items()}}
