"""The numbers of a recipe that every configuration of a backend repeats: processes, batch, clipping, precision."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Shape:
    """A run as a launcher, accelerate and DeepSpeed see it; all of them get the same numbers from here."""

    processes: int
    """On each node."""
    nodes: int
    micro_batch_size: int
    """Rows that a process computes at once."""
    gradient_accumulation_steps: int
    max_grad_norm: float
    dtype: Literal["bf16", "fp16", "fp32"]
    """What products are computed in, with `auto` resolved."""
    on_gpu: bool
    activation_checkpointing: bool = False
    deepspeed_file: str = "deepspeed.json"
    """Where accelerate's configuration finds DeepSpeed's: a path from the folder that the run is started in."""

    @property
    def world_size(self) -> int:
        """Processes on all nodes."""
        return self.processes * self.nodes

    @property
    def global_batch_size(self) -> int:
        """Rows of one optimiser step."""
        return self.micro_batch_size * self.gradient_accumulation_steps * self.world_size

    @property
    def mixed_precision(self) -> str:
        """The dtype in accelerate's words: bf16, fp16 or no."""
        return "no" if self.dtype == "fp32" else self.dtype
