"""A run's own plan: predicted before its first step, held against what it measures, and asked when memory runs out.

Nothing here ever ends a run: where there is no plan, a line says why and the run goes on.
"""

from collections.abc import Callable
from dataclasses import astuple, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from ftune.core.errors import FtuneError
from ftune.core.say import Say
from ftune.plan.work import useful_flops
from ftune.recipes.runs.place import Place, shape_of
from ftune.recipes.runs.plan import Plan, Target, plan_of
from ftune.recipes.runs.plan_auto import Choice, leaves_open, with_batch
from ftune.recipes.runs.plan_fit import mildest_changes
from ftune.recipes.runs.plan_gpu import gpu_of_torch
from ftune.recipes.runs.plan_rows import Rows
from ftune.recipes.runs.plan_time import Time, time_of
from ftune.recipes.runs.plan_world import checked
from ftune.report.events import EventLog, read_events
from ftune.report.run_folder import RunFolder

if TYPE_CHECKING:
    from ftune.recipes.ppo import PpoRecipe
    from ftune.recipes.training import TrainingRecipe

GIB = 2**30

CHANGES_NAMED = 3


@dataclass(frozen=True, slots=True)
class Prediction:
    """The plan of a run on the device that it has, or why there is none."""

    plan: Plan | None
    time: Time | None = None
    why_not: str = ""

    def record(self, events: EventLog, say: Say) -> None:
        """Write it down, and say it where a GPU will measure the same."""
        if self.plan is None:
            say.line(f"memory is not predicted: {self.why_not}")
            return
        plan, needed = self.plan, self.plan.estimate
        events.write(
            "predicted",
            on_gpu=plan.target.on_gpu,
            memory_gib=round(needed.peak / GIB, 3),
            phase=needed.largest.name,
            parts={name: round(size / GIB, 3) for name, size in needed.parts.items()},
            beside_gib=round(needed.reserved / GIB, 3),
            rows=plan.rows.said_by,
            activation_checkpointing=plan.job.checkpointing,
            **({"tokens_per_s": self.time.tokens_per_s, "share": self.time.share} if self.time else {}),
        )
        if plan.target.on_gpu:
            verdict = "" if plan.fits else "; that is more than the GPU has, 'ftune plan --fit' says what needs less"
            say.line(f"memory: {needed.peak / GIB:.1f} GiB predicted for each GPU{verdict}")

    def hold_against(self, folder: RunFolder, say: Say) -> None:
        """Say what was measured beside what was predicted, where a GPU has measured it."""
        if self.plan is None or not self.plan.target.on_gpu or not folder.writes:
            return
        history = read_events(folder.path / "events.jsonl")
        measured = max((event["memory_gib"] for event in history if event["kind"] == "step"), default=0.0)
        if measured:
            expected = self.plan.estimate.peak / GIB
            off = (expected - measured) / measured
            say.line(f"memory: {measured:.2f} GiB at the peak; {expected:.2f} were predicted ({off:+.0%})")

    def mfu(self, tokens: int, squares: int, trained: int, seconds: float) -> float | None:
        """The share of all GPUs' peak that training on such rows in this time is (see `useful_flops`)."""
        gpu = self.plan.target.gpu if self.plan else None
        if self.plan is None or gpu is None or gpu.flops is None or seconds <= 0:
            return None
        job = self.plan.job
        return useful_flops(job, tokens, squares, trained) / (gpu.flops * job.spread.world * seconds)

    def out_of_memory(self, otherwise: str) -> str:
        """What to change when memory has run out, cheapest first; without a plan, `otherwise`."""
        if self.plan is None:
            return otherwise
        try:
            steps = mildest_changes(self.plan, partial(plan_of, target=self.plan.target, rows=self.plan.rows))
        except Exception:  # the run has failed already, and its own error is the one to tell
            return otherwise
        named = [f"{' '.join(step.change.overrides)} ({step.gain / GIB:.1f} GiB less)" for step in steps]
        return f"cheapest first: {', or '.join(named[:CHANGES_NAMED])}" if named else otherwise


def predict(recipe: "TrainingRecipe | PpoRecipe", place: Place, rows: Callable[[], Rows]) -> Prediction:
    """The plan of a run in its place; `rows` counts them, which is not done where there is no plan."""
    try:
        plan = plan_of(recipe, target_of(recipe, place), rows())
        return Prediction(plan, time_of(plan))
    except FtuneError as error:
        return Prediction(None, why_not=str(error))
    except Exception as error:  # a plan is never worth a run
        return Prediction(None, why_not=f"{type(error).__name__}: {error}")


def target_of(recipe: "TrainingRecipe | PpoRecipe", place: Place) -> Target:
    """The device and the processes of a run. Raises LaunchError where the recipe cannot be on them."""
    shape = place.shape
    spread = checked(recipe, place.backend, shape.processes, shape.nodes)
    gpu = gpu_of_torch(place.ranks.local_rank) if place.on_gpu else None
    return Target(gpu=gpu, on_gpu=place.on_gpu, spread=spread, dtype=shape.dtype)


def settled(
    recipe: "TrainingRecipe", place: Place, rows: Callable[[], Rows], say: Say
) -> "tuple[TrainingRecipe, Place]":
    """The recipe with values in the places of `auto` in its section `batch`, the same on all processes."""
    if not leaves_open(recipe.batch):
        return recipe, place
    told = place.ranks.from_first(lambda: [astuple(choice) for choice in _choices(recipe, place, rows)])
    choices = [Choice(*each) for each in told]
    for choice in choices:
        say.line(str(choice))
    sized = with_batch(recipe, {choice.key: choice.value for choice in choices})
    shape = shape_of(sized, processes=place.shape.processes, nodes=place.shape.nodes, on_gpu=place.on_gpu)
    return sized, replace(place, shape=shape)


def _choices(recipe: "TrainingRecipe", place: Place, rows: Callable[[], Rows]) -> tuple[Choice, ...]:
    """What `auto` becomes; the most careful values where there is no plan, but no checkpointing, which can fail."""
    found = predict(recipe, place, rows)
    if found.plan is not None:
        return found.plan.chosen
    why = f"the memory cannot be predicted: {found.why_not}"
    careful = {"micro_batch_size": 1, "activation_checkpointing": False}
    return tuple(Choice(key, value, why) for key, value in careful.items() if getattr(recipe.batch, key) == "auto")
