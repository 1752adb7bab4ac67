"""The plan of a recipe: its job on some device, what that needs there, and whether the device has it."""

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from ftune.core.errors import ModelError
from ftune.models.config import CONFIG, read_config
from ftune.plan.estimate import Estimate, estimate
from ftune.plan.families import shape_of_config
from ftune.plan.gpus import Gpu
from ftune.plan.job import Dtype, Job, Spread
from ftune.plan.shape import ModelShape
from ftune.recipes.runs.plan_auto import Choice, chosen, leaves_open
from ftune.recipes.runs.plan_gpu import has_bf16
from ftune.recipes.runs.plan_job import job_of
from ftune.recipes.runs.plan_rows import Rows, rows_of_recipe
from ftune.recipes.runs.plan_speed import compiled
from ftune.recipes.runs.plan_time import time_of
from ftune.recipes.runs.plan_world import NOTHING, Asked, spread_of
from ftune.recipes.training import TrainingRecipe

if TYPE_CHECKING:
    from ftune.recipes.runs.plan_changes import Trained
    from ftune.recipes.runs.plan_probe import Probe


MOST_LAYERS = 1_000
"""Deeper than any that there is."""


@dataclass(frozen=True, slots=True)
class Target:
    """What a recipe is planned for."""

    gpu: Gpu | None = None
    """None: nothing to hold it against."""
    on_gpu: bool = True
    world: Asked = NOTHING
    spread: Spread | None = None
    """Processes that are there already; else they follow from recipe and `world`."""
    shape: ModelShape | None = None
    """The model's, where it was given by hand or has been read already."""
    by_hand: bool = False
    """Whether it is another model than the recipe's."""
    dtype: Dtype | None = None
    """Of products, where it is known already."""
    ask: bool = False
    """Whether the hub may be asked for the model's configuration."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A recipe on its target."""

    recipe: "Trained"
    job: Job
    estimate: Estimate
    rows: Rows
    target: Target
    notes: tuple[str, ...] = ()
    """What was taken on trust, in sentences."""
    chosen: tuple[Choice, ...] = ()
    """What was `auto` in the section `batch` and became a number by this arithmetic."""
    probe: "Probe | None" = None
    """What a few steps of it have measured on its target."""

    @property
    def fits(self) -> bool:
        """Whether the device has room for it."""
        return self.target.gpu is None or self.estimate.fits(self.target.gpu.usable)

    @property
    def margin(self) -> int:
        """Bytes that it leaves of the device; below 0 where they are missing."""
        return 0 if self.target.gpu is None else self.target.gpu.usable - self.estimate.total


def plan_of(recipe: "Trained", target: Target, rows: Rows | None = None) -> Plan:
    """The plan of a recipe; `rows` where they are known better than from the recipe and earlier runs.

    Raises ModelError for a model whose shape is not known, LaunchError for a world that the recipe cannot have.
    """
    shape = target.shape or shape_of(recipe.model.path, recipe.model.revision, ask=target.ask)
    if shape.layers > MOST_LAYERS:
        raise ModelError(f"a model of {shape.layers:,} decoder layers is not planned; {MOST_LAYERS:,} are the most")
    target = replace(target, shape=shape)
    rows = rows or rows_of_recipe(recipe, shape.positions)
    spread = target.spread or spread_of(recipe, target.world)
    if isinstance(recipe, TrainingRecipe) and leaves_open(recipe.batch):
        plan, choices = chosen(recipe, spread, rows, target, partial(plan_of, target=target, rows=rows))
        return replace(plan, chosen=choices)
    job, notes = job_of(
        recipe,
        shape,
        rows,
        spread,
        target.dtype or dtype_on(target.gpu, recipe.model.dtype, on_gpu=target.on_gpu),
        on_gpu=target.on_gpu,
        card=target.gpu.usable if target.gpu else None,
    )
    plan = Plan(recipe, job, estimate(job), rows, target, tuple(notes))
    if not isinstance(recipe, TrainingRecipe):
        return plan
    job = compiled(recipe, job, time_of(plan))
    return replace(plan, job=job, estimate=estimate(job))


def on_card(plan: Plan, recipe: "Trained", gpu: Gpu) -> Plan:
    """The plan of a recipe, made without a device, on a GPU that computes bf16.

    Only what `auto` becomes and what PPO's rollouts take of the memory differ from card to card.
    """
    target = replace(plan.target, gpu=gpu)
    if plan.chosen or plan.job.roles is not None:
        return plan_of(recipe, replace(target, spread=plan.job.spread), plan.rows)
    return replace(plan, target=target)


def shape_of(path: str, revision: str | None, *, ask: bool) -> ModelShape:
    """The shape of the model at a recipe's path. Raises ModelError."""
    where = path if path.endswith(".gguf") else f"{path}: {CONFIG}"
    return shape_of_config(read_config(path, revision, ask=ask), where)


def dtype_on(gpu: Gpu | None, asked: str, *, on_gpu: bool) -> Dtype:
    """What `model.dtype: auto` means on a device that need not be here."""
    if asked in ("bf16", "fp16", "fp32"):
        return asked  # type: ignore[return-value]
    if not on_gpu:
        return "fp32"
    return "fp16" if gpu is not None and not has_bf16(gpu) else "bf16"
