"""The cheapest set of changes that makes a recipe fit, and what each of them is worth."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ftune.core.errors import FtuneError
from ftune.plan.work import token_flops
from ftune.recipes.runs.plan_changes import Change, Trained, rungs

if TYPE_CHECKING:
    from ftune.recipes.runs.plan import Plan

Planner = Callable[[Trained], "Plan"]
"""The plan of a recipe on what was asked for. Raises FtuneError where there can be none."""


@dataclass(frozen=True, slots=True)
class Step:
    """A change, and what a run is with it beside what it would be without it."""

    change: Change
    gain: int
    """Bytes of the device that it takes less."""
    arithmetic: float
    """Products and sums of a trained token: their number, as a multiple of what it was."""

    @classmethod
    def between(cls, change: Change, before: "Plan", after: "Plan") -> "Step":
        """From the plan without it to the plan with it."""
        work = token_flops(after.job) / token_flops(before.job)
        return cls(change, before.estimate.total - after.estimate.total, work)


@dataclass(frozen=True, slots=True)
class Fitted:
    """What was found; without steps where the recipe fits as it is."""

    steps: tuple[Step, ...]
    plan: "Plan"
    """With all of them."""

    @property
    def changes(self) -> list[Change]:
        """From the cheapest to the dearest."""
        return [step.change for step in self.steps]


def fit(plan: "Plan", planner: Planner) -> Fitted:
    """The changes after which a recipe fits, none dearer than needed; all of them where even they are not enough.

    Kinds of changes have an order of cost. The dearest kind that is needed is found first, then of each cheaper kind
    the mildest level with which it still fits: so no set that fits is smaller in its dearest changes.
    """
    if plan.fits:
        return Fitted((), plan)
    search = _Search(plan.recipe, rungs(plan.recipe, plan.job), planner)
    most = [len(levels) for levels in search.ladder]
    for top in range(len(most)):
        levels = [*most[: top + 1], *[0] * (len(most) - top - 1)]
        if search.fits(levels):
            return search.told(plan, search.mildest(levels))
    tried = [[*most[: top + 1], *[0] * (len(most) - top - 1)] for top in range(len(most))]
    least = min(tried, key=search.need, default=[0] * len(most))
    return search.told(plan, least)


class _Search:
    """Plans of the recipe at levels of the ladder: a number for each kind of change, 0 for none of it."""

    def __init__(self, recipe: Trained, ladder: list[list[Change]], planner: Planner) -> None:
        self.recipe, self.ladder, self.planner = recipe, ladder, planner

    def fits(self, levels: Sequence[int]) -> bool:
        """Whether it fits then."""
        found = self.plan(self._changed(levels)[0])
        return found is not None and found.fits

    def need(self, levels: Sequence[int]) -> float:
        """Bytes of the device that it needs then."""
        found = self.plan(self._changed(levels)[0])
        return float("inf") if found is None else found.estimate.total

    def mildest(self, levels: list[int]) -> list[int]:
        """From levels that fit to the mildest ones that do, the dearest kinds first."""
        found = list(levels)
        for kind in reversed(range(len(found))):
            for level in range(found[kind]):
                milder = [*found[:kind], level, *found[kind + 1 :]]
                if self.fits(milder):
                    found = milder
                    break
        return found

    def told(self, before: "Plan", levels: Sequence[int]) -> Fitted:
        """The changes in the order of their costs, each with what would be missing without it."""
        changes = self._changed(levels)[1]
        after = self._after(changes)
        if after is None:
            return Fitted((), before)
        without = [self._after([other for other in changes if other is not change]) or before for change in changes]
        steps = [Step.between(change, plan, after) for change, plan in zip(changes, without, strict=True)]
        return Fitted(tuple(steps), after)

    def _after(self, changes: Sequence[Change]) -> "Plan | None":
        """The plan with these changes."""
        recipe = self.recipe
        for change in changes:
            recipe = change.on(recipe) or recipe
        return self.plan(recipe)

    def _changed(self, levels: Sequence[int]) -> tuple[Trained, list[Change]]:
        """The recipe with the changes of these levels, of which dear ones go before those that they rule out."""
        recipe, taken, changes = self.recipe, set[str](), list[Change]()
        for kind in reversed(range(len(levels))):
            for change in reversed(self.ladder[kind][: levels[kind]]):
                changed = None if taken & change.values.keys() else change.on(recipe)
                if changed is not None:
                    recipe, taken = changed, taken | change.values.keys()
                    changes.insert(0, change)
                    break
        return recipe, changes

    def plan(self, recipe: Trained) -> "Plan | None":
        """The plan of a recipe; None where there can be none."""
        try:
            return self.planner(recipe)
        except FtuneError:
            return None


def mildest_changes(plan: "Plan", planner: Planner) -> list[Step]:
    """The mildest change of each kind by itself that makes a recipe need less, the cheapest kind first."""
    steps = []
    for levels in rungs(plan.recipe, plan.job):
        for change in levels:
            changed = change.on(plan.recipe)
            after = _Search(plan.recipe, [], planner).plan(changed) if changed is not None else None
            if after is not None and after.estimate.total < plan.estimate.total:
                steps.append(Step.between(change, plan, after))
                break
    return steps
