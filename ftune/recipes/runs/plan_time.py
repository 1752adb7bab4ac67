"""How long a planned run takes, and what it costs: its arithmetic at a share of the device's peak."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ftune.core.errors import FtuneError
from ftune.plan.gpus import gpu_of_device
from ftune.plan.job import Job
from ftune.plan.work import HOUR, SHARE, Work, cost, ppo_work, token_flops, training_work
from ftune.recipes.training import TrainingRecipe

if TYPE_CHECKING:
    from ftune.plan.gpus import Gpu
    from ftune.recipes.runs.plan import Plan
    from ftune.recipes.runs.plan_probe import Probe
    from ftune.report.run_record import RunRecord

EPOCHS = 3.0
"""Of a recipe that gives neither `epochs` nor `max_steps`."""

SAME = (("type",), ("model", "path"), ("model", "quantization"), ("peft", "type"), ("speed", "fp8"))
"""What an earlier run has to have in common for its speed to be this one's."""


@dataclass(frozen=True, slots=True)
class Time:
    """A run's length on its device."""

    steps: int
    """Optimiser steps; iterations of PPO."""
    tokens: float
    """Computed in all of them, on all devices; 0 where it is not tokens that are counted."""
    hours: float
    share: float | None
    """Of the device's peak; None where the speed was measured by itself."""
    said_by: str
    """Where the speed is from, in words."""
    devices: int

    def price(self, an_hour: float) -> float:
        """Money, at a price for an hour of one device."""
        return cost(self.hours, self.devices, an_hour)

    @property
    def tokens_per_s(self) -> float | None:
        """Of all devices together."""
        return self.tokens / (self.hours * HOUR) if self.tokens and self.hours else None


def time_of(plan: "Plan") -> Time | None:
    """The time of a plan; None where the number of rows or the speed of the device is not known."""
    gpu, devices = plan.target.gpu, plan.job.spread.world
    steps = steps_of(plan)
    if steps is not None and plan.probe is not None:
        return _probed(plan, plan.probe, steps)
    if gpu is None or gpu.flops is None or steps is None:
        return None
    recipe = plan.recipe
    share, said_by, tokens = SHARE, "assumed", 0.0
    if not isinstance(recipe, TrainingRecipe):
        work: Work = ppo_work(plan.job, steps, recipe.ppo.epochs)
    else:
        usual = usual_job(plan)
        work = training_work(usual, steps)
        tokens = _tokens(plan, steps)
        measured = _measured(recipe, usual, gpu)
        if measured is not None:
            share, said_by = measured, f"measured by the run in {recipe.output_dir}"
    hours = work.hours(gpu, devices, share)
    return None if hours is None else Time(steps, tokens, hours, share, said_by, devices)


def _probed(plan: "Plan", probe: "Probe", steps: int) -> Time:
    """As fast as the probe was: by its tokens where they are counted, by its iterations for PPO."""
    tokens = _tokens(plan, steps) if isinstance(plan.recipe, TrainingRecipe) else 0.0
    seconds = tokens / probe.tokens_per_s if tokens else steps * probe.seconds
    said_by = f"measured by a probe of {probe.steps} {'steps' if tokens else 'iterations'}"
    return Time(steps, tokens, seconds / HOUR, None, said_by, plan.job.spread.world)


def _tokens(plan: "Plan", steps: int) -> float:
    """Of so many steps of training on all devices."""
    usual = usual_job(plan)
    return float(usual.batch_tokens * usual.accumulation * usual.spread.world * steps)


def steps_of(plan: "Plan") -> int | None:
    """Optimiser steps, or iterations of PPO; None where nobody knows how many rows there are."""
    recipe = plan.recipe
    if not isinstance(recipe, TrainingRecipe):
        return recipe.schedule.iterations
    if recipe.schedule.max_steps is not None:
        return recipe.schedule.max_steps
    rows = plan.rows
    sequences: float | None = rows.count
    if plan.job.packed and rows.tokens:
        sequences = rows.tokens / plan.job.tokens
    if sequences is None:
        return None
    at_once = recipe.batch.rows_at_once * plan.job.accumulation * plan.job.spread.world
    return max(1, math.ceil(math.ceil(sequences / at_once) * (recipe.schedule.epochs or EPOCHS)))


def usual_job(plan: "Plan") -> Job:
    """The job with rows of their mean length: what time depends on, where memory depends on the longest."""
    if plan.job.packed:
        return plan.job
    return replace(plan.job, tokens=max(1, round(plan.rows.mean)), most_tokens=None)


def _measured(recipe: "TrainingRecipe", job: Job, gpu: "Gpu") -> float | None:
    """The share of the peak that an earlier run of nearly the same recipe had, on the same kind of device."""
    if not Path(recipe.output_dir).is_dir():
        return None
    from ftune.report.run_record import dig, read_run

    try:
        run = read_run(Path(recipe.output_dir))
    except (FtuneError, OSError):
        return None
    now = recipe.resolved()
    alike = all(dig(run.recipe, *keys) == dig(now, *keys) for keys in SAME)
    recomputed = run.last("predicted").get("activation_checkpointing")  # what `auto` became
    if recomputed is None:
        recomputed = dig(run.recipe, "batch", "activation_checkpointing")
    device = gpu_of_device(str(run.last("model").get("device") or ""))
    speed = _speed(run)
    if (
        not alike
        or recomputed != job.checkpointing
        or device is None
        or device.name != gpu.name
        or not device.flops
        or not speed
    ):
        return None
    share = speed * token_flops(job) / (device.flops * float(run.last("model").get("processes") or 1))
    return share if 0.0 < share < 1.0 else None


def _speed(run: "RunRecord") -> float | None:
    """Tokens per second on all devices, in the middle of the steps."""
    from statistics import median

    values = run.series("step", "tokens_per_s").values
    return median(values) if values else None
