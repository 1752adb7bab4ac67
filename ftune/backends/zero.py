"""ZeRO, by DeepSpeed (arXiv:1910.02054): the state of training is cut over the processes, stage by stage."""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import model_validator

from ftune.backends.asked import Asked, flat
from ftune.backends.base import Sharding, differs
from ftune.backends.distributed import Count, Distributed, common_config
from ftune.backends.limits import of_optimizers, of_quantization
from ftune.backends.machine import count_gpus, missing_for_async_io, missing_for_cpu_adam
from ftune.backends.shape import Shape
from ftune.core.section import Location, Section

Device = Literal["none", "cpu", "nvme"]


class Offload(Section):
    """What lies outside of the GPUs' memory."""

    optimizer: Device = "none"
    """The optimiser's moments and fp32 weights: on the device (`none`), in the memory of the CPU, where the optimiser
    then steps, or on an NVMe drive (stage 3)."""

    parameters: Device = "none"
    """The model's weights, each gathered when it is needed (stage 3): `none`, `cpu` or `nvme`."""

    nvme_path: str | None = None
    """A folder on an NVMe drive; DeepSpeed's files in it are of no use after the run."""

    @property
    def uses_nvme(self) -> bool:
        """Whether anything lies on a drive."""
        return "nvme" in (self.optimizer, self.parameters)

    @model_validator(mode="after")
    def _has_a_folder(self) -> Self:
        if self.uses_nvme and self.nvme_path is None:
            raise ValueError("nvme_path: 'nvme' needs a folder to write to; add 'nvme_path: /path/on/the/drive'")
        if self.nvme_path is not None and not self.uses_nvme:
            raise ValueError("nvme_path: nothing goes there; set 'optimizer: nvme' or 'parameters: nvme', or remove it")
        return self

    def faults(self) -> Iterator[tuple[Location, str]]:
        """A folder that is not there."""
        if self.nvme_path is not None and not Path(self.nvme_path).is_dir():
            problem = "is not a folder" if Path(self.nvme_path).exists() else "is not there"
            yield ("nvme_path",), f"'{self.nvme_path}' {problem}; make a folder on the drive, on every node"


class Zero(Distributed):
    """Moments, gradients and weights cut over the processes, as the stage says (DeepSpeed ZeRO)."""

    type: Literal["zero"] = "zero"
    """Moments, gradients and weights cut over the processes, as the stage says (DeepSpeed ZeRO)."""

    stage: Literal[1, 2, 3] = 2
    """What is cut: 1 the optimiser's state, 2 gradients too, 3 weights too."""

    offload: Offload = Offload()
    """What lies outside of the GPUs' memory."""

    bucket_size: Count = 200_000_000
    """Gradients that are reduced in one message, as a count of numbers (2 bytes each in bf16); in stages 1 and 2 also
    the weights that are gathered in one, in stage 3 those that are fetched ahead. Smaller saves memory."""

    overlap_communication: bool = True
    """Reduce gradients while the backward pass goes on; in stages 1 and 2 it takes a second bucket's memory."""

    @model_validator(mode="after")
    def _stage_allows(self) -> Self:
        if self.stage < 3 and self.offload.parameters != "none":
            raise ValueError(f"offload.parameters: stage {self.stage} keeps weights whole; use 'stage: 3' or 'none'")
        if self.stage < 3 and self.offload.optimizer == "nvme":
            raise ValueError(f"offload.optimizer: 'nvme' needs 'stage: 3'; stage {self.stage} takes 'cpu'")
        return self

    def faults(self) -> Iterator[tuple[Location, str]]:
        """Those of processes, DeepSpeed itself, and what has to be compiled for offloading."""
        yield from super().faults()
        if find_spec("deepspeed") is None:
            yield ("type",), "needs the deepspeed package; pip install 'ftune[deepspeed]', or use 'fsdp'"
            return
        on_gpu = self.on_gpu(count_gpus())
        if self.offload.optimizer != "none" and (missing := missing_for_cpu_adam()):
            yield (
                ("offload", "optimizer"),
                f"'{self.offload.optimizer}' steps with DeepSpeed's CPU Adam, which has to be compiled; missing: "
                f"{missing}; or use 'none'",
            )
        if self.offload.uses_nvme and (missing := missing_for_async_io(on_gpu=on_gpu)):
            yield (
                ("offload", "nvme_path"),
                f"DeepSpeed's async_io has to be compiled to use the drive; missing: {missing}; or use 'cpu'",
            )

    def accelerate_config(self, shape: Shape) -> dict[str, Any]:
        """DeepSpeed's launcher-free start, and the name of DeepSpeed's own file.

        Next to that file accelerate 1.15 takes no precision, clipping or accumulation: they stand in it.
        """
        return common_config(shape, "DEEPSPEED") | {
            "deepspeed_config": {
                "deepspeed_config_file": shape.deepspeed_file,
                "deepspeed_multinode_launcher": "standard",
                "zero3_init_flag": self.stage == 3,
            }
        }

    def deepspeed_config(self, shape: Shape) -> dict[str, Any]:
        """Batch, clipping, precision and stage, all in numbers."""
        return {
            "train_batch_size": shape.global_batch_size,
            "train_micro_batch_size_per_gpu": shape.micro_batch_size,
            "gradient_accumulation_steps": shape.gradient_accumulation_steps,
            "gradient_clipping": shape.max_grad_norm,
            "bf16": {"enabled": shape.dtype == "bf16"},
            "fp16": _fp16(enabled=shape.dtype == "fp16"),
            "zero_optimization": {
                "stage": self.stage,
                "overlap_comm": self.overlap_communication,
                "reduce_bucket_size": self.bucket_size,
                **self._weights(),
                **self._offloaded(pin=shape.on_gpu),
            },
        }

    def shards(self) -> tuple[Sharding, ...]:
        """By ZeRO, and from stage 3 on weights too."""
        return ("zero", "zero3") if self.stage == 3 else ("zero",)

    def limits(self) -> dict[str, str]:
        """Optimisers that need whole parameters or have no counterpart on the CPU; in stage 3 quantised weights."""
        found = of_optimizers("flat pieces of many")
        if self.offload.optimizer != "none":
            # accelerate 1.15 puts DeepSpeed's CPU Adam in the place of whatever optimiser it gets
            found["sgd"] = "offloading steps with DeepSpeed's CPU Adam; use 'adamw', or 'offload.optimizer: none'"
        return found | (of_quantization("ZeRO's stage 3") if self.stage == 3 else {})

    def _weights(self) -> dict[str, Any]:
        if self.stage < 3:
            return {"allgather_bucket_size": self.bucket_size}
        return {
            "stage3_prefetch_bucket_size": self.bucket_size,
            "stage3_gather_16bit_weights_on_model_save": True,
        }

    def _offloaded(self, *, pin: bool) -> dict[str, Any]:
        """The two sections of offloading; page-locked memory is for copies to a GPU."""
        found: dict[str, Any] = {}
        for key, device in (("offload_optimizer", self.offload.optimizer), ("offload_param", self.offload.parameters)):
            if device != "none":
                place = {"nvme_path": self.offload.nvme_path} if device == "nvme" else {}
                found[key] = {"device": device, "pin_memory": pin, **place}
        return found

    def _differing(self, asked: Asked, shape: Shape) -> list[str]:
        if asked.deepspeed_file:
            return self._differing_from_file(asked, shape)
        theirs, ours = dict(flat(asked.zero)), dict(flat(self.model_dump()))
        return [
            differs(f"DeepSpeed {key}", value, f"backend.{key}", ours.get(key))
            for key, value in theirs.items()
            if value != ours.get(key)
        ]

    def _differing_from_file(self, asked: Asked, shape: Shape) -> list[str]:
        ours = dict(flat(self.deepspeed_config(shape)))
        found = [
            f"{asked.deepspeed_file}: {key} is {value}, the recipe makes it {ours[key]}: the recipe holds; change one"
            for key, value in asked.deepspeed.items()
            if key in ours and value != ours[key]
        ]
        if unknown := [key for key in asked.deepspeed if key not in ours]:
            found.append(f"{asked.deepspeed_file}: a recipe has no key for {', '.join(unknown)}: left out")
        return found


def _fp16(*, enabled: bool) -> dict[str, Any]:
    """fp16 with a loss scale that halves on an overflow and doubles after 1000 steps without one."""
    if not enabled:
        return {"enabled": False}
    return {
        "enabled": True,
        "loss_scale": 0,  # dynamic
        "initial_scale_power": 16,
        "loss_scale_window": 1000,
        "hysteresis": 2,
        "min_loss_scale": 1,
    }
