"""What is measured, the most telling first, and the memory that it should need."""

from dataclasses import dataclass

GIB = 2**30


@dataclass(frozen=True, slots=True)
class Setting:
    """A way to train the model."""

    name: str
    backend: dict[str, str]
    """Keys of the recipe's `backend`, `type` first; {drive} stands for a folder."""
    recipe: tuple[str, ...] = ()
    """Further overrides; {rows} stands for the rows of a step of all processes, {steps} for all steps."""
    same_rows: bool = False
    """One process that trains on as many rows a step as the others together: the losses to compare with."""

    @property
    def alone(self) -> bool:
        """Whether it is one process."""
        return self.backend["type"] == "single"

    def overrides(self, gpus: int, *, micro: int, steps: int, drive: str) -> list[str]:
        """Words of the command line."""
        several = [] if self.alone else [f"backend.num_processes={gpus}"]
        backend = [f"backend.{key}={value.format(drive=drive)}" for key, value in self.backend.items()]
        return [*backend, *several, *(word.format(rows=micro * gpus, steps=steps) for word in self.recipe)]


ZERO3 = {"type": "zero", "stage": "3"}
FSDP = {"type": "fsdp"}

SETTINGS = (
    Setting("single", {"type": "single"}),
    Setting("ddp", {"type": "ddp"}),
    Setting("zero2", {"type": "zero", "stage": "2"}),
    Setting("zero3", ZERO3),
    Setting("fsdp", FSDP),
    Setting("same-rows", {"type": "single"}, ("batch.global_batch_size={rows}", "schedule.max_steps=10"), True),
    Setting("fsdp-offload", {**FSDP, "offload": "cpu"}),
    Setting("zero3-offload", {**ZERO3, "offload.optimizer": "cpu"}),
    Setting("zero1", {"type": "zero", "stage": "1"}),
    Setting("fsdp-keep", {**FSDP, "reshard_after_forward": "false"}),
    Setting("zero3-offload-all", {**ZERO3, "offload.optimizer": "cpu", "offload.parameters": "cpu"}),
    Setting("zero3-nvme", {**ZERO3, "offload.optimizer": "nvme", "offload.nvme_path": "{drive}"}),
    Setting("fsdp-checkpoint", FSDP, ("checkpoint.every={steps}",)),
    Setting(
        "zero3-nvme-all",
        {**ZERO3, "offload.optimizer": "nvme", "offload.parameters": "nvme", "offload.nvme_path": "{drive}"},
    ),
)


def bytes_per_parameter(name: str, gpus: int) -> float:
    """What a parameter costs in a GPU's memory, without activations and what is gathered for a moment.

    ZeRO (arXiv:1910.02054): 2 for the bf16 weight, 2 for its gradient, 12 for the fp32 weight and two moments, of which
    stage 1 divides the 12, stage 2 the gradient too, stage 3 all. Offloading takes the gradient along with the
    optimiser (arXiv:2101.06840). ftune's other backends keep weight, gradient and moments in fp32, which is 16 too;
    FSDP2 that keeps gathered weights has 2 more.
    """
    family = name.removesuffix("-checkpoint")
    if family in ("single", "same-rows", "ddp"):
        return 16.0
    return {
        "zero1": 4 + 12 / gpus,
        "zero2": 2 + 14 / gpus,
        "zero3": 16 / gpus,
        "zero3-offload": 2 / gpus,
        "zero3-offload-all": 0.0,
        "zero3-nvme": 2 / gpus,
        "zero3-nvme-all": 0.0,
        "fsdp": 16 / gpus,
        "fsdp-keep": 2 + 16 / gpus,
        "fsdp-offload": 0.0,
    }[family]


def state_gib(name: str, gpus: int, parameters: int) -> float:
    """The same for a whole model, in GiB."""
    return bytes_per_parameter(name, gpus) * parameters / GIB
