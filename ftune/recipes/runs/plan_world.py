"""On what a recipe would compute: its backend and processes, here or on GPUs that are only thought of."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ftune.backends.distributed import Distributed
from ftune.backends.fsdp import Fsdp
from ftune.backends.machine import count_gpus
from ftune.backends.single import Single
from ftune.backends.zero import Zero
from ftune.core.errors import LaunchError, RecipeError
from ftune.core.world import World
from ftune.plan.job import Spread

if TYPE_CHECKING:
    from ftune.backends.base import Backend
    from ftune.recipes.ppo import PpoRecipe
    from ftune.recipes.training import TrainingRecipe


@dataclass(frozen=True, slots=True)
class Asked:
    """How many GPUs the command line names; None leaves it to the recipe, and then to this machine."""

    gpus: int | None = None
    """On each node."""
    nodes: int | None = None


NOTHING = Asked()


def spread_of(recipe: "TrainingRecipe | PpoRecipe", asked: Asked = NOTHING) -> Spread:
    """The backend and the processes of a recipe. Raises LaunchError for a world that it cannot have."""
    backend: Backend = recipe.backend
    if asked.nodes is not None or asked.gpus is not None:
        nodes = asked.nodes or backend.nodes
        gpus = asked.gpus or _on_each_node(backend)
        if isinstance(backend, Single) and nodes * gpus > 1:
            raise LaunchError(
                f"backend.type: 'single' is one process, and {nodes} x {gpus} GPUs are {nodes * gpus}; "
                "use 'ddp', 'fsdp', 'zero' or 'auto'"
            )
        if backend.device == "cpu":
            raise LaunchError("backend.device: 'cpu' leaves the GPUs idle; remove it, or --num-gpus and --nodes")
        backend = backend.resolve(World(0, nodes * gpus, 0, gpus, nodes, 0, "ftune"), {}, gpus)
        if isinstance(backend, Distributed):
            backend = backend.model_copy(update={"num_nodes": nodes, "num_processes": gpus})
    else:
        gpus = _on_each_node(backend)
        backend = backend.resolve(None, {}, gpus)
        nodes, gpus = backend.nodes, backend.local_processes(gpus)
    return checked(recipe, backend, gpus, nodes)


def checked(recipe: "TrainingRecipe | PpoRecipe", backend: "Backend", processes: int, nodes: int) -> Spread:
    """The spread of a resolved backend. Raises LaunchError where the recipe cannot have it."""
    from ftune.recipes.training import TrainingRecipe

    try:
        recipe.check_backend(backend)
        if isinstance(recipe, TrainingRecipe):
            recipe.batch.accumulation(processes * nodes)
    except ValueError as error:
        raise LaunchError(f"{processes * nodes} processes: {error}") from None
    return _spread(backend, processes, nodes)


def _on_each_node(backend: "Backend") -> int:
    """Processes of a node where nobody has said how many: as the recipe has it, else one for each GPU here."""
    known = backend.known_processes
    return (known // backend.nodes) if known else max(1, count_gpus())


def _spread(backend: "Backend", processes: int, nodes: int) -> Spread:
    if isinstance(backend, Zero):
        return Spread(
            type="zero",
            processes=processes,
            nodes=nodes,
            stage=backend.stage,
            optimizer=backend.offload.optimizer,
            parameters=backend.offload.parameters,
            bucket_size=backend.bucket_size,
            overlap=backend.overlap_communication,
        )
    if isinstance(backend, Fsdp):
        return Spread(
            type="fsdp",
            processes=processes,
            nodes=nodes,
            parameters=backend.offload,
            hybrid=backend.sharding == "hybrid",
            reshard=backend.reshard_after_forward,
        )
    bucket = getattr(backend, "bucket_mib", 25)
    return Spread(
        type="single" if processes * nodes == 1 else "ddp", processes=processes, nodes=nodes, bucket_mib=bucket
    )


def check_command_line(gpus: int | None, nodes: int | None) -> Asked:
    """Raises RecipeError for numbers that no world has."""
    for option, value in (("--num-gpus", gpus), ("--nodes", nodes)):
        if value is not None and value < 1:
            raise RecipeError(f"{option}: {value}; a run has at least one")
    return Asked(gpus, nodes)
