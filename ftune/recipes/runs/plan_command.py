"""What `ftune plan` does: a recipe on one GPU or several common ones, what makes it fit, and the new recipe."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftune.core.errors import FtuneError, LaunchError, RecipeError
from ftune.plan.by_hand import shape_by_hand
from ftune.plan.gpus import GPUS, find_gpu
from ftune.recipes.load import Loaded, load_recipe
from ftune.recipes.runs.plan import Plan, Target, on_card, plan_of
from ftune.recipes.runs.plan_gpu import COMMON, gpu_here
from ftune.recipes.runs.plan_text import as_dict, cards, headline, ladder, memory, timing
from ftune.recipes.runs.plan_world import check_command_line

if TYPE_CHECKING:
    from ftune.plan.shape import ModelShape
    from ftune.recipes.runs.plan_changes import Trained
    from ftune.recipes.runs.plan_fit import Fitted
    from ftune.recipes.runs.plan_probe import Program

ELSEWHERE = frozenset(
    {"model", "data", "optim", "backend", "log", "ptx", "reward_model", "rewards", "gold", "rollout", "speed"}
)
"""Sections that name devices, packages and files, which need not be on the machine that plans."""

UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}


@dataclass(frozen=True, slots=True)
class ByHand:
    """A model's shape as the command line gives it."""

    parameters: str | None
    sizes: Mapping[str, int | None]

    def shape(self) -> "ModelShape | None":
        """None where nothing was given. Raises RecipeError for sizes without the number of parameters, ModelError."""
        given = {name: size for name, size in self.sizes.items() if size is not None}
        if self.parameters is None:
            if given:
                option = next(iter(given)).replace("_", "-")
                raise RecipeError(f"--{option}: a model by hand needs its number of parameters too: --params 7B")
            return None
        match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,9})?)([KMBT]?)", self.parameters.strip().upper())
        if match is None:
            raise RecipeError(f"--params: '{self.parameters}' is no number of parameters, such as 7B or 125M")
        for name, size in given.items():
            if size < 1:
                raise RecipeError(f"--{name.replace('_', '-')}: {size}; give a number of 1 or more")
        return shape_by_hand(parameters=round(float(match[1]) * UNITS[match[2]]), **given)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the command line asks for beside the recipe."""

    gpu: str | None = None
    num_gpus: int | None = None
    nodes: int | None = None
    price: float | None = None
    by_hand: ByHand = ByHand(None, {})
    fit: bool = False
    write: Path | None = None
    probe: "Program | None" = None
    """Starts the run that measures this machine; None: no such run."""

    def check(self) -> None:
        """Raises RecipeError for what does not go together, and for a price that is none."""
        if self.price is not None and not 0 <= self.price < math.inf:
            raise RecipeError(f"--price: {self.price}; give what one GPU costs for an hour")
        elsewhere = {"gpu": self.gpu, "num-gpus": self.num_gpus, "nodes": self.nodes, "params": self.by_hand.parameters}
        named = [f"--{name}" for name, value in elsewhere.items() if value is not None]
        if self.probe and named:
            raise RecipeError(f"--probe: it measures the recipe on this machine; leave out {' and '.join(named)}")


def planned(path: Path, overrides: Sequence[str], wanted: Wanted, *, as_json: bool = False) -> str:
    """The plan of a recipe as text or JSON. Raises RecipeError, ModelError and LaunchError."""
    wanted.check()
    world = check_command_line(wanted.num_gpus, wanted.nodes)
    gpu = find_gpu(wanted.gpu) if wanted.gpu is not None else gpu_here()
    shape = wanted.by_hand.shape()
    loaded = load_recipe(None, path, overrides, elsewhere=() if wanted.probe else ELSEWHERE)
    recipe = plannable(loaded)
    if wanted.probe:
        plan, several = _probed(loaded, recipe, wanted.probe), []
    else:
        plan = plan_of(recipe, Target(gpu=gpu, world=world, shape=shape, by_hand=shape is not None, ask=True))
        several = [] if gpu else [on_card(plan, recipe, GPUS[name]) for name in COMMON]
    if plan.target.gpu is None and wanted.fit:
        raise LaunchError(f"--fit: into what? name a GPU with --gpu: {', '.join(GPUS)}, or its memory, as in 24GiB")
    fitted = _fitted(plan) if wanted.fit else None
    written = _written(loaded, fitted, wanted.write) if fitted and wanted.write else None
    if as_json:
        return _json(plan, several, fitted, wanted.price)
    parts = [[f"plan of {path}", *headline(plan)], memory(plan), timing(plan, wanted.price)]
    parts += [cards(several)] if several else []
    parts += [ladder(fitted)] if fitted else []
    parts += [[f"wrote {written}"]] if written else []
    return "\n\n".join("\n".join(part) for part in parts if part)


def plannable(loaded: Loaded) -> "Trained":
    """The recipe, where it trains. Raises RecipeError for one that does not."""
    if (recipe := _trained(loaded)) is None:
        kind = loaded.recipe.resolved()["type"]
        raise RecipeError(f"{loaded.path}: type: '{kind}' trains nothing; recipes of sft, rm and ppo are planned")
    return recipe


def _trained(loaded: Loaded) -> "Trained | None":
    """The recipe where it is of a command that trains."""
    recipe: Any = loaded.recipe
    return recipe if recipe.type in ("sft", "rm", "ppo") else None


def plan_here(loaded: Loaded) -> str:
    """The plan for a dry run: on the GPU of this machine where it has one; a line where there is none."""
    if (recipe := _trained(loaded)) is None:
        return ""
    try:
        plan = plan_of(recipe, _here(recipe))
    except FtuneError as error:
        return f"memory is not predicted: {error}"
    return "\n\n".join("\n".join(part) for part in (headline(plan), memory(plan), timing(plan, None)) if part)


def folder_here(loaded: Loaded, *, resume: bool, overwrite: bool) -> str:
    """What the run would say of its folder, for a dry run. Raises what it would raise because of that folder."""
    if (recipe := _trained(loaded)) is None:
        return ""
    from ftune.recipes.runs.opening import look_at

    return look_at(Path(recipe.output_dir), recipe, resume=resume, overwrite=overwrite)


def _here(recipe: "Trained") -> Target:
    """What is on this machine: its CPU where there is no GPU or the recipe wants none."""
    gpu = gpu_here() if recipe.backend.device != "cpu" else None
    return Target(gpu=gpu, on_gpu=gpu is not None)


def _probed(loaded: Loaded, recipe: "Trained", program: "Program") -> Plan:
    """The plan of a recipe on this machine, of which some steps have been run."""
    from ftune.recipes.runs.plan_probe import probe

    before = plan_of(recipe, replace(_here(recipe), ask=True))
    found = probe(loaded, recipe, program, before.job.shape.positions)
    on_gpu = found.peak is not None
    target = replace(before.target, on_gpu=on_gpu, gpu=before.target.gpu if on_gpu else None)
    return replace(plan_of(recipe, target, found.rows), probe=found)


def _fitted(plan: Plan) -> "Fitted":
    from ftune.recipes.runs.plan_fit import fit

    return fit(plan, partial(plan_of, target=plan.target, rows=plan.rows))


def _written(loaded: Loaded, fitted: "Fitted", path: Path) -> str:
    from ftune.recipes.runs.plan_write import write_recipe

    return write_recipe(loaded, fitted, path)


def _json(plan: Plan, several: Sequence[Plan], fitted: "Fitted | None", price: float | None) -> str:
    content: dict[str, Any] = as_dict(plan, price)
    if several:
        content["gpus"] = [as_dict(each, price)["gpu"] for each in several]
    if fitted:
        content["fit"] = {
            "fits": fitted.plan.fits,
            "total": fitted.plan.estimate.total,
            "changes": [
                {
                    "name": step.change.name,
                    "overrides": step.change.overrides,
                    "gain": step.gain,
                    "cost": step.change.cost,
                    "arithmetic": round(step.arithmetic, 4),
                }
                for step in fitted.steps
            ],
        }
    return json.dumps(content, indent=2)
