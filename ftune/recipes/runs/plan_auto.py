"""`batch.micro_batch_size: auto` and `batch.activation_checkpointing: auto`: what the device has room for."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ftune.core.several import several
from ftune.plan.job import Spread
from ftune.plan.selected import knows_selected
from ftune.recipes.runs.plan_rows import Rows

if TYPE_CHECKING:
    from ftune.recipes.runs.plan import Plan, Target
    from ftune.recipes.training import TrainingRecipe
    from ftune.recipes.training_sections import Batch

TOKENS_ON_CPU = 8192
"""Tokens computed at once on a CPU: enough for its matrix products, and within anybody's memory."""

GIB = 2**30

Planner = Callable[["TrainingRecipe"], "Plan"]
"""The plan of a recipe in which nothing is `auto` any more."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What an `auto` became."""

    key: str
    """Of the section `batch`."""
    value: int | str
    """A number of rows; false, selective or true."""
    why: str

    def __str__(self) -> str:
        """As a recipe would say it, and the reason."""
        value = str(self.value).lower() if isinstance(self.value, bool) else self.value
        return f"batch.{self.key}: auto is {value} ({self.why})"


def leaves_open(batch: "Batch") -> bool:
    """Whether something in it is `auto`."""
    return "auto" in (batch.micro_batch_size, batch.activation_checkpointing)


def chosen(
    recipe: "TrainingRecipe", spread: Spread, rows: Rows, target: "Target", planner: Planner
) -> "tuple[Plan, tuple[Choice, ...]]":
    """The plan with numbers in the places of `auto`, and what they are.

    The largest micro-batch that fits without checkpointing; with that of a part of each layer only where not even one
    row fits otherwise, and with that of all of it where not even then. Where nothing fits it is the smallest. Without a
    device to hold it against it is the rule for a CPU.
    """
    plans: list[Plan] = []
    if target.on_gpu and target.gpu is not None:
        for sized in _tries(recipe, list(_powers(recipe, spread.world)), spread):
            plan = planner(sized)
            if plan.job.checkpointing == recipe.batch.checkpointing or _sure(plan):
                plans.append(plan)
                if plan.fits:
                    break
    else:
        for number in _powers(recipe, spread.world):
            plans = [planner(next(_tries(recipe, [number], spread)))]
            if _tokens_at_once(plans[0], rows) <= TOKENS_ON_CPU:
                break
    return plans[-1], tuple(_choices(recipe, plans))


def _sure(plan: "Plan") -> bool:
    """Whether the run will be able to checkpoint like that: a part of a layer not with every model and backend."""
    return plan.job.checkpointing != "selective" or knows_selected(plan.job)


def with_batch(recipe: "TrainingRecipe", values: "Mapping[str, int | str]") -> "TrainingRecipe":
    """The recipe with keys of its section `batch` set anew."""
    return recipe.model_copy(update={"batch": recipe.batch.model_copy(update=values)})


def _tries(recipe: "TrainingRecipe", numbers: list[int], spread: Spread) -> "Iterator[TrainingRecipe]":
    """Recipes without `auto`, the best first."""
    batch = recipe.batch
    numbers = numbers if batch.micro_batch_size == "auto" else [batch.micro_batch_size]
    states: list[int | str] = [batch.checkpointing]
    if batch.activation_checkpointing == "auto" and "activation_checkpointing" not in recipe.peft.limits():
        refused = spread.type in ("zero", "fsdp") or "selective_checkpointing" in recipe.peft.limits()
        states += [True] if refused else ["selective", True]
    for state in states:
        for number in numbers:
            yield with_batch(recipe, {"micro_batch_size": number, "activation_checkpointing": state})


def _tokens_at_once(plan: "Plan", rows: Rows) -> int:
    """Of the largest micro-batch: of its rows alone where they are laid end to end."""
    return plan.job.batch_tokens if plan.job.flat else plan.recipe.batch.rows_at_once * rows.longest  # type: ignore[union-attr]


def _powers(recipe: "TrainingRecipe", world: int) -> Iterator[int]:
    """The powers of two that divide the share of a process in a step, the largest first."""
    share = (recipe.batch.global_batch_size or world) // world
    power = share & -share  # the largest one
    while power:
        yield power
        power //= 2


def _choices(recipe: "TrainingRecipe", plans: "list[Plan]") -> Iterator[Choice]:
    """What was open, with the reasons; the last of the plans that were tried is the one that is taken."""
    taken = plans[-1]
    if recipe.batch.micro_batch_size == "auto":
        number = taken.recipe.batch.micro_batch_size  # type: ignore[union-attr]
        yield Choice("micro_batch_size", number, _why_so_many(taken))
    if recipe.batch.activation_checkpointing == "auto":
        without = [plan for plan in plans if not plan.job.checkpointing][-1]
        limit = recipe.peft.limits().get("activation_checkpointing")
        on = taken.job.checkpointing
        yield Choice("activation_checkpointing", on, _why_checkpointing(taken, without, limit))


def _why_so_many(plan: "Plan") -> str:
    if not plan.target.on_gpu:
        return "on a CPU the largest power of two with at most 8,192 tokens"
    if plan.target.gpu is None:
        return "as on a CPU; on a GPU it follows from its memory"
    if not plan.fits:
        return f"even that is predicted to take {_gib(plan)}, more than there is"
    return f"the largest power of two that fits: {_gib(plan)} predicted"


def _why_checkpointing(taken: "Plan", without: "Plan", limit: str | None) -> str:
    gpu = taken.target.gpu
    if not taken.target.on_gpu:
        return "never on a CPU"
    if gpu is None:
        return "as on a CPU; on a GPU it follows from its memory"
    has = f"of {gpu.usable / GIB:.1f}"
    if taken.job.checkpointing:
        rows = several(without.job.micro_batch_size, "row")
        beyond = "" if taken.fits else ", which is still too much"
        return f"without it {rows} would take {_gib(without)} {has}; with it {_gib(taken)} are predicted{beyond}"
    if not without.fits and limit is not None:
        return f"{_gib(without)} {has} are predicted, which is too much, but {limit}"
    return f"it fits without: {_gib(without)} {has} predicted"


def _gib(plan: "Plan") -> str:
    return f"{plan.estimate.total / GIB:.1f} GiB"
