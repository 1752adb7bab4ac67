"""A recipe on the nodes of a cluster: what the scripts for Slurm, Kubernetes and SkyPilot have in common."""

import math
import re
import shlex
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from ftune.backends.distributed import Distributed
from ftune.backends.single import Single
from ftune.core.errors import LaunchError
from ftune.core.world import World
from ftune.recipes.load import Loaded
from ftune.recipes.ppo import PpoRecipe
from ftune.recipes.training import TrainingRecipe

if TYPE_CHECKING:
    from jinja2 import Environment


DEVICES = frozenset({"backend"})
"""The sections of a recipe about devices: a login node need not have those of the cluster."""

FILES = frozenset({"model", "data", "ptx", "reward_model", "rewards", "gold", "log"})
"""The sections that name files and packages: pods and rented machines have others than the one that writes a script."""


@dataclass(frozen=True, slots=True)
class Job:
    """A recipe that can run on so many nodes."""

    recipe: Path
    """As it was given: it is read on the nodes, in their working folder."""
    overrides: tuple[str, ...]
    output_dir: str
    """The folder of the run."""
    nodes: int
    gpus_per_node: int
    """One process each."""

    @property
    def run(self) -> list[str]:
        """The recipe and what is changed in it, as words of a command."""
        return [str(self.recipe), *self.overrides]


def job_of(loaded: Loaded, nodes: int, gpus_per_node: int) -> Job:
    """The job that runs a valid recipe on so many nodes and GPUs; they count, not those in the recipe.

    Raises LaunchError where the recipe cannot use them.
    """
    recipe, processes = loaded.recipe, nodes * gpus_per_node
    if not isinstance(recipe, TrainingRecipe | PpoRecipe):
        raise LaunchError(f"{loaded.path}: 'ftune {recipe.resolved()['type']}' runs in one process, on no cluster")
    if isinstance(recipe.backend, Single) and processes > 1:
        raise LaunchError(
            f"{loaded.path}: backend.type: 'single' is one process, and {nodes} x {gpus_per_node} GPUs are "
            f"{processes}; use 'ddp', 'fsdp', 'zero' or 'auto'"
        )
    if recipe.backend.device == "cpu":
        raise LaunchError(f"{loaded.path}: backend.device: 'cpu' leaves the GPUs of the cluster idle; remove it")
    there = World(0, processes, 0, gpus_per_node, nodes, 0, "ftune")
    backend = recipe.backend.resolve(there, {}, gpus_per_node)
    if isinstance(backend, Distributed):
        backend = backend.model_copy(update={"num_nodes": nodes, "num_processes": gpus_per_node})
    try:
        recipe.check_backend(backend)
    except ValueError as error:
        raise LaunchError(f"{loaded.path}: {error}") from None
    return Job(loaded.path, loaded.overrides, recipe.output_dir, nodes, gpus_per_node)


def name_of(job: Job) -> str:
    """A name for the job that every scheduler takes (RFC 1035: small letters, digits, hyphens), from the recipe's."""
    name = re.sub(r"[^a-z0-9]+", "-", job.recipe.stem.lower())[:50].strip("-")
    return name if name[:1].isalpha() else f"ftune-{name}".rstrip("-")


def one_word(option: str, value: str | None) -> str | None:
    """The value of an option that goes into a line of a scheduler. Raises LaunchError where it would break the line."""
    if value is not None and (not value or set(value) & set(" \t\r\n'\"#\\`$")):
        raise LaunchError(f"{option}: '{value}' has to be one word without spaces, quotes, '#', '$' and backslashes")
    return value


def mounts_of(option: str, given: list[str]) -> dict[str, str]:
    """Folders and what is mounted there, from `NAME:FOLDER` each. Raises LaunchError for another form."""
    mounts = {}
    for value in given:
        name, _, folder = value.partition(":")
        if not name or not folder.startswith("/"):
            raise LaunchError(f"{option}: '{value}' is not NAME:FOLDER with an absolute folder, such as runs:/mnt/runs")
        mounts[folder] = name
    return mounts


def render(template: str, **values: object) -> str:
    """A template with its values; `sh` quotes words for a shell, `yaml` text as one scalar on one line."""
    return _templates().get_template(template).render(values)


@cache
def _templates() -> "Environment":
    import jinja2

    environment = jinja2.Environment(  # noqa: S701 - shell scripts and YAML, each with quotes of its own
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["sh"] = lambda words: shlex.join([words] if isinstance(words, str) else words)
    environment.filters["yaml"] = _scalar
    return environment


def _scalar(text: str) -> str:
    return yaml.safe_dump(text, default_style='"', allow_unicode=True, width=math.inf).rstrip("\n")
