"""Starts the processes that a recipe wants on this machine: all of a run, or one node's share of it."""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from ftune.backends.base import Backend
from ftune.backends.machine import count_gpus
from ftune.core.errors import LaunchError, RecipeError
from ftune.core.world import export_slurm, joined
from ftune.launch.place import Place, check_meeting_point, place_of, processes_of
from ftune.launch.processes import Share, ftune_command
from ftune.launch.supervisor import supervise
from ftune.recipes.base import Recipe
from ftune.recipes.load import load_recipe


def start_here(recipe: Recipe, path: Path, words: Sequence[str]) -> int | None:
    """Run `ftune` with these words in as many processes as the recipe wants on this machine, and give the exit code.

    None where one process is enough, or where a launcher has made this process one of several: then the work is its
    own. Raises LaunchError where the recipe wants several machines and nobody has started them.
    """
    backend = getattr(recipe, "backend", None)
    if not isinstance(backend, Backend):
        return None
    if joined() is not None:
        export_slurm(os.environ)  # torch looks for these variables by itself
        return None
    gpus = count_gpus()
    backend = backend.resolve(None, os.environ, gpus)
    if backend.nodes > 1:
        raise LaunchError(
            f"backend.num_nodes: {backend.nodes} machines, and this command starts the processes of one; run "
            f"'ftune launch node {path} --nodes {backend.nodes} --node-rank K --address HOST:PORT' on each of them, "
            f"or 'ftune launch slurm {path}'"
        )
    processes = backend.local_processes(gpus)
    if processes == 1:
        return None
    return _start(recipe, path, ftune_command(words), place_of({}), processes)


def start_node(
    path: Path,
    overrides: Sequence[str] = (),
    *,
    nodes: int | None = None,
    node_rank: int | None = None,
    address: str | None = None,
    num_processes: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    program: Callable[[Sequence[str]], Sequence[str]] = ftune_command,
) -> int:
    """Run one node's share of a recipe's run and give the exit code.

    What is None is what the cluster's variables say (see `place_of`), else what the recipe says. `resume` goes on from
    the newest complete checkpoint and starts where there is none, so that a job that is queued again can always ask for
    it. `program` makes the command of a process from the words after `ftune`. Raises RecipeError and LaunchError.
    """
    if resume and overwrite:
        raise RecipeError("--resume and --overwrite: choose one")
    recipe = load_recipe(None, path, overrides).recipe
    backend, command = getattr(recipe, "backend", None), str(recipe.resolved()["type"])
    if not isinstance(backend, Backend):
        raise LaunchError(f"{path}: 'ftune {command}' runs in one process; there is nothing to launch")
    gpus = count_gpus()
    backend = backend.resolve(None, os.environ, gpus)
    place = place_of(os.environ, nodes=nodes, node=node_rank, address=address, otherwise=backend.nodes)
    processes = num_processes or processes_of(os.environ) or backend.local_processes(gpus)
    if place.nodes > 1:
        each = "1 process" if processes == 1 else f"{processes} processes"
        print(f"node {place.node} of {place.nodes}: {each}, meeting at {place.host}:{place.port}", file=sys.stderr)
        check_meeting_point(place)
    options = ["--resume"] * resume + ["--overwrite"] * overwrite
    return _start(recipe, path, program([command, str(path), *overrides, *options]), place, processes)


def _start(recipe: Recipe, path: Path, command: Sequence[str], place: Place, processes: int) -> int:
    if not path.is_file():
        raise RecipeError(f"{path}: every process reads the recipe, and this can be read only once; give a file")
    logs = Path(str(recipe.resolved()["output_dir"])) / "logs"
    return supervise(command, Share(processes, place.nodes, place.node, place.host, place.port), logs)
