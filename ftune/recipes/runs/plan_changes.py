"""What makes a recipe need less memory, from the cheapest change to the dearest."""

import json
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from ftune.plan.job import Job
from ftune.plan.selected import knows_selected
from ftune.recipes.training import TrainingRecipe

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ftune.recipes.ppo import PpoRecipe

Trained: TypeAlias = "TrainingRecipe | PpoRecipe"
"""A recipe that the arithmetic knows. That of PPO is not imported where no recipe is one: it takes long."""


@dataclass(frozen=True, slots=True)
class Change:
    """Some keys of a recipe, set anew."""

    name: str
    values: Mapping[str, Any]
    """By the whole name of the key: `batch.micro_batch_size`."""
    cost: str
    """In speed or otherwise, in words."""

    @property
    def overrides(self) -> list[str]:
        """As arguments of a command."""
        return [f"{key}={_word(value)}" for key, value in self.values.items()]

    def on(self, recipe: Trained) -> "Trained | None":
        """The recipe with it; None where the recipe cannot have it, or has it already."""
        return with_values(recipe, self.values)


def with_values(recipe: Trained, values: Mapping[str, Any]) -> "Trained | None":
    """The recipe with some keys set anew; None where that is no valid recipe, or the same one."""
    given = recipe.model_dump(mode="json", exclude_unset=True) | {"type": command_of(recipe)}
    for key, value in values.items():
        *above, last = key.split(".")
        node = given
        for name in above:
            child = node.get(name)
            node[name] = node = dict(child) if isinstance(child, dict) else {"type": child} if child else {}
        node[last] = value
    try:
        changed: Trained = type(recipe).model_validate(given)
    except ValueError:
        return None
    return None if changed == recipe else changed


def command_of(recipe: Trained) -> str:
    """The command whose recipe this is."""
    return str(type(recipe).model_fields["type"].default)


def pasted(changes: "Sequence[Change]") -> str:
    """All overrides in one line for a shell."""
    return shlex.join(word for change in changes for word in change.overrides)


def rungs(recipe: Trained, job: Job) -> list[list[Change]]:
    """The ladder: kinds of changes from the cheapest to the dearest, each in levels from the mildest on."""
    ladder = [kind(recipe, job) for kind in KINDS]
    return [found for levels in ladder if (found := list(levels))]


def _micro_batch(recipe: Trained, job: Job) -> Iterator[Change]:
    """Fewer rows at once, and as many in a step as before."""
    cost = "the same arithmetic in smaller products"
    if not isinstance(recipe, TrainingRecipe):
        for size in _divisors(recipe.ppo.micro_batch_size):
            yield Change(f"micro-batch of {size}", {"ppo.micro_batch_size": size}, cost)
        return
    now, accumulation = recipe.batch.rows_at_once, recipe.batch.accumulation(job.spread.world)
    for size in _divisors(now):
        values: dict[str, Any] = {"batch.micro_batch_size": size}
        if recipe.batch.global_batch_size is None:
            values["batch.gradient_accumulation_steps"] = accumulation * now // size
        yield Change(f"micro-batch of {size}", values, cost)


def _checkpointing(recipe: Trained, job: Job) -> Iterator[Change]:
    """A part of each layer, then all of it, which is all that PPO knows, then with its input elsewhere."""
    training = isinstance(recipe, TrainingRecipe)
    key = f"{'batch' if training else 'ppo'}.activation_checkpointing"
    if training and not job.checkpointing and knows_selected(job):
        yield Change("selective checkpointing", {key: "selective"}, "most of a second forward pass")
    if job.checkpointing is not True:
        yield Change("activation checkpointing", {key: True}, "a second forward pass")
    if training and not job.offload and job.spread.type in ("single", "ddp") and job.on_gpu:
        cost = "a second forward pass; each layer's input goes to the CPU and back"
        yield Change("activation offload", {key: True, "batch.activation_offload": True}, cost)


def _optimizer(recipe: Trained, job: Job) -> Iterator[Change]:
    if (small := {"adamw": "adamw_8bit", "paged_adamw": "paged_adamw_8bit"}.get(recipe.optim.optimizer)) is not None:
        yield Change("8-bit optimizer", {"optim.optimizer": small}, "none in speed; moments are rounded")
    if recipe.optim.optimizer == "adamw" and job.dtype == "bf16":  # refused where not the whole model trains
        cost = "none in speed; weights, gradients and moments are rounded"
        yield Change("bf16 optimizer", {"optim.optimizer": "adamw_bf16"}, cost)


def _sharding(recipe: Trained, job: Job) -> Iterator[Change]:
    """ZeRO's stages, of which PPO takes none, then FSDP2, which also loads the model in parts."""
    if job.spread.world == 1 or job.spread.type == "fsdp":
        return
    done = job.spread.stage if job.spread.type == "zero" else 0
    for stage in range(done + 1, 4) if isinstance(recipe, TrainingRecipe) else ():
        cost = "half as much traffic again as DDP" if stage == 3 else "none: as much traffic as DDP"
        yield Change(f"ZeRO-{stage}", {"backend": {"type": "zero", "stage": stage, **_processes(recipe)}}, cost)
    cost = "half as much traffic again as DDP"
    yield Change("FSDP2", {"backend": {"type": "fsdp", **_processes(recipe)}}, cost)


def _lora(recipe: Trained, job: Job) -> Iterator[Change]:
    if values := _adapter(recipe):
        yield Change("LoRA", values, "an adapter is trained instead of the model")


def _adapter(recipe: Trained) -> dict[str, Any]:
    """What makes LoRA of a method that trains the model itself; nothing for others."""
    if recipe.peft.library == "peft":
        return {}
    values: dict[str, Any] = {"peft": "lora"}
    if recipe.optim.learning_rate != "auto":
        values["optim.learning_rate"] = "auto"
    if not isinstance(recipe, TrainingRecipe):
        values |= {"memory": "auto"} if recipe.memory != "auto" else {}
        values |= {"value.type": "auto"} if recipe.value.type == "copy" else {}
    return values


def _quantization(recipe: Trained, job: Job) -> Iterator[Change]:
    if job.quantization == "none" and job.shape.stored_as == "none":
        values = _adapter(recipe) | {"model.quantization": "nf4"}
        yield Change("QLoRA", values, "4-bit weights are unpacked for each product")


def _offload(recipe: Trained, job: Job) -> Iterator[Change]:
    """To the CPU's memory; PPO keeps everything on its devices."""
    if not isinstance(recipe, TrainingRecipe) or job.spread.optimizer != "none":
        return
    ways: dict[str, dict[str, Any]] = {
        "optimizer on the CPU": {"stage": 2, "offload": {"optimizer": "cpu"}},
        "optimizer and weights on the CPU": {"stage": 3, "offload": {"optimizer": "cpu", "parameters": "cpu"}},
    }
    for name, settings in ways.items():
        cost = "the optimizer steps on the CPU" + (", weights travel for each pass" if settings["stage"] == 3 else "")
        yield Change(name, {"backend": {"type": "zero", **settings, **_processes(recipe)}}, cost)


Kind = Callable[[Trained, Job], Iterator[Change]]
KINDS: tuple[Kind, ...] = (_micro_batch, _checkpointing, _optimizer, _sharding, _lora, _quantization, _offload)
"""In the order of what they cost. The loss is fused already wherever it can be."""


def _divisors(size: int) -> list[int]:
    """What divides a number and is smaller, the largest first."""
    return [part for part in range(size - 1, 0, -1) if size % part == 0]


def _processes(recipe: Trained) -> dict[str, Any]:
    """How many processes the recipe says that it wants, which another backend wants too."""
    backend = recipe.backend
    names = ("num_processes", "num_nodes", "device")
    return {name: getattr(backend, name) for name in names if name in backend.model_fields_set}


def _word(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value).replace('"', "")
