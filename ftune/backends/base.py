"""What every backend provides."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from ftune.backends.asked import Asked, asked_of
from ftune.backends.machine import count_gpus
from ftune.backends.shape import Shape
from ftune.core.errors import LaunchError
from ftune.core.section import Location, Section
from ftune.core.world import World

Sharding = Literal["zero", "zero3", "fsdp"]
"""How the state of a run is spread: by ZeRO, by ZeRO with parameters too (stage 3), by FSDP2."""

NAMES = {"zero": "DeepSpeed", "fsdp": "FSDP"}


class Backend(Section):
    """A way to use devices and processes.

    To add one, add a file beside this one with a subclass that has a `type` field; nothing else needs an edit.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes GPUs where there are any; `cpu` and `cuda` insist."""

    @property
    def name(self) -> str:
        """What its `type` says."""
        return str(type(self).model_fields["type"].default)

    @property
    def nodes(self) -> int:
        """Machines of a run."""
        return 1

    @property
    def known_processes(self) -> int | None:
        """Processes on all nodes, where the recipe alone says it."""
        return 1

    def on_gpu(self, gpus: int) -> bool:
        """Whether it computes on GPUs where a node has that many."""
        return self.device != "cpu" and gpus > 0

    @abstractmethod
    def local_processes(self, gpus: int) -> int:
        """Processes on each node, where it has that many GPUs."""

    @abstractmethod
    def accelerate_config(self, shape: Shape) -> dict[str, Any]:
        """What `accelerate launch --config_file` reads."""

    def deepspeed_config(self, shape: Shape) -> dict[str, Any] | None:
        """DeepSpeed's configuration with every number that the recipe knows; None without DeepSpeed."""
        return None

    def training_args(self) -> dict[str, object]:
        """The arguments of transformers' TrainingArguments that put a process on this backend.

        All but `deepspeed`, which is `deepspeed_config`.
        """
        return {"use_cpu": self.device == "cpu"}

    def shards(self) -> tuple[Sharding, ...]:
        """How it spreads the state of a run; nothing where each process has all of it."""
        return ()

    def limits(self) -> dict[str, str]:
        """What it does not go with: optimisers (`adafactor`) and quantisations (`nf4`) by name, why, and a way out."""
        return {}

    def resolve(self, world: World | None, environment: Mapping[str, str], gpus: int) -> "Backend":
        """The backend itself, or what `auto` means here.

        `world` is what a launcher made (None: this process stands alone), `environment` what it set, `gpus` how many
        this node has. Raises LaunchError for what cannot be.
        """
        if world and self.on_gpu(gpus) and world.local_count > gpus:
            raise LaunchError(
                f"{world.launcher} started {world.local_count} processes on a node, where each sees {gpus} GPUs: start "
                "one for each GPU, and let each see all of them (srun: --gpus-per-node, not --gpus-per-task)"
            )
        return self

    def contradictions(self, world: World | None, environment: Mapping[str, str], shape: Shape) -> list[str]:
        """Where a launcher says something else than the recipe: a sentence each.

        To be asked of what `resolve` gave, with the shape that the run has. Raises LaunchError like `resolve`.
        """
        asked = asked_of(environment)
        if asked.kind not in (None, self.name):
            return [
                f"the launcher asks for {NAMES[str(asked.kind)]}, the recipe for 'backend: {self.name}': the recipe "
                "holds; 'backend: auto' would take what the launcher asks for"
            ]
        said = [
            ("mixed_precision", asked.mixed_precision, "model.dtype", shape.mixed_precision),
            (
                "gradient_accumulation_steps",
                asked.gradient_accumulation_steps,
                "batch.gradient_accumulation_steps",
                shape.gradient_accumulation_steps,
            ),
            ("gradient_clipping", asked.max_grad_norm, "optim.max_grad_norm", shape.max_grad_norm),
        ]
        return [*self._differing(asked, shape), *(differs(*each) for each in said if each[1] not in (None, each[3]))]

    def _differing(self, asked: Asked, shape: Shape) -> list[str]:
        """The sentences about what only this backend has."""
        return []

    def faults(self) -> Iterator[tuple[Location, str]]:
        """A GPU that was insisted on but is not there."""
        if self.device == "cuda" and not count_gpus():
            yield ("device",), "no CUDA device on this machine; use 'auto' or 'cpu'"


def differs(name: str, theirs: object, key: str, ours: object) -> str:
    """The sentence for a setting of a launcher, by its name there, that is not that of the recipe."""
    return (
        f"the launcher's {name} is {theirs}, the recipe's {key} makes it {ours}: the recipe holds; "
        f"set {name} to {ours} there, or change {key}"
    )
