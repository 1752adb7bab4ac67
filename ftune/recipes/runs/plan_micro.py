"""`batch.micro_batch_size: auto`: as many rows at once as the device has room for."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from ftune.plan.job import Spread
from ftune.recipes.runs.plan_rows import Rows

if TYPE_CHECKING:
    from ftune.recipes.runs.plan import Target
    from ftune.recipes.training import TrainingRecipe

TOKENS_ON_CPU = 8192
"""Tokens computed at once on a CPU: enough for its matrix products, and within anybody's memory."""


def rows_at_once(
    recipe: "TrainingRecipe", spread: Spread, rows: Rows, target: "Target", fits: Callable[["TrainingRecipe"], bool]
) -> int:
    """The largest power of two that a step can be cut into and that fits; 1 where not even that does.

    Without a device to hold it against it is the rule for a CPU.
    """
    for number in _powers(recipe, spread.world):
        if target.on_gpu and target.gpu is not None:
            if fits(with_rows(recipe, number)):
                return number
        elif number * rows.longest <= TOKENS_ON_CPU:
            return number
    return 1


def with_rows(recipe: "TrainingRecipe", number: int) -> "TrainingRecipe":
    """The recipe with a number in the place of `auto`."""
    batch = recipe.batch.model_copy(update={"micro_batch_size": number})
    return recipe.model_copy(update={"batch": batch})


def _powers(recipe: "TrainingRecipe", world: int) -> Iterator[int]:
    """The powers of two that divide the share of a process in a step, the largest first."""
    share = (recipe.batch.global_batch_size or world) // world
    power = share & -share  # the largest one
    while power:
        yield power
        power //= 2
