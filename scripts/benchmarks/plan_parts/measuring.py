"""A setting at work: the code of its command from the recipe to the last step, and what it had of the GPU's memory."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

import ftune.ppo.build
import ftune.ppo.loop
import ftune.trainers.rm
import ftune.trainers.sft  # noqa: F401 - imported once, for all settings
from ftune.backends.ranks import Ranks
from ftune.core.errors import StoppedError
from ftune.core.say import Say
from ftune.ppo.state import State
from ftune.recipes.base import RunOptions
from ftune.recipes.load import load_recipe
from ftune.recipes.ppo import PpoRecipe
from ftune.recipes.rm import RmRecipe
from ftune.recipes.runs import rm, sft
from ftune.recipes.runs.opening import open_run
from ftune.recipes.runs.ppo_asked import ask
from ftune.recipes.runs.ppo_assembly import assemble
from ftune.recipes.runs.training import Run, Trained, run_training
from ftune.report.events import Event, EventLog
from ftune.trainers.training import Outcome

Reading = dict[str, Any]


class MeasuredError(StoppedError):
    """Everything is measured: all processes end here, and nothing is saved."""


@dataclass
class Meter:
    """Readings of one process, in bytes; None without a GPU."""

    started: float = field(default_factory=time.monotonic)
    found: Reading = field(default_factory=dict)

    def loaded(self) -> None:
        """The model is in memory. What follows is training."""
        self.found["loading_s"] = round(time.monotonic() - self.started, 1)
        self.found["loading_peak"] = _bytes("max_memory_allocated")
        self.found["loaded"] = _bytes("memory_allocated")
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()

    def trained(self) -> None:
        """All steps are done, or one has failed."""
        self.found["peak"] = _bytes("max_memory_allocated")
        self.found["reserved"] = _bytes("max_memory_reserved")
        self.found["seconds"] = round(time.monotonic() - self.started, 1)


class WatchedLog(EventLog):
    """An event log that tells the meter when the model is loaded, and keeps how the steps went."""

    def __init__(self, inner: EventLog, meter: Meter) -> None:
        self.inner, self.meter = inner, meter

    def write(self, kind: str, **fields: object) -> Event:
        """Pass the event on."""
        if kind == "model":
            self.meter.loaded()
            self.meter.found |= {key: fields[key] for key in ("parameters", "trainable", "dtype")}
        elif kind == "speed":
            self.meter.found["speed"] = fields
        elif kind == "step":
            self.meter.found.setdefault("losses", []).append(fields["loss"])
            self.meter.found["tokens"] = fields["tokens"]
        return self.inner.write(kind, **fields)


def measured(recipe_file: Path) -> Reading:
    """The readings of the process's part in a run; `error` where it failed, with what was read until then."""
    meter = Meter()
    try:
        _run(recipe_file, meter)
    except MeasuredError:
        pass
    except Exception as error:  # a setting that fails must not take the others along
        meter.trained()
        meter.found |= {"error": f"{type(error).__name__}: {str(error)[:400]}", "out_of_memory": _is_memory(error)}
    if torch.cuda.is_available():
        meter.found["device"] = torch.cuda.get_device_name()
        meter.found["card"] = torch.cuda.get_device_properties(0).total_memory
    return meter.found


def _run(recipe_file: Path, meter: Meter) -> None:
    text = recipe_file.read_text(encoding="utf-8")
    recipe: Any = load_recipe(None, recipe_file, text=text).recipe
    options = RunOptions(text, f"ftune {recipe.type} {recipe_file}", overwrite=True)
    if isinstance(recipe, PpoRecipe):
        _run_ppo(recipe, options, meter)
    else:
        train = rm._train if isinstance(recipe, RmRecipe) else sft._train  # all of the command but its result
        run_training(recipe, options, partial(_rows, partial(train, recipe), meter), _no_report)


def _rows(train: Callable[[Run], Trained], meter: Meter, run: Run) -> Trained:
    train(replace(run, events=WatchedLog(run.events, meter)))
    meter.trained()
    raise MeasuredError


def _no_report(run: Run, outcome: Outcome) -> None:
    """Nothing is left to report on."""


def _run_ppo(recipe: PpoRecipe, options: RunOptions, meter: Meter) -> None:
    say, path = Say(), Path(recipe.output_dir)
    with Ranks.meet() as ranks:
        folder = open_run(recipe, path, options, say, "iteration", ranks)
        assert folder is not None
        with folder.recording() as events:
            asked = ranks.first_then_all(partial(ask, recipe, say))
            meter.found["prompt_tokens"] = max(len(prompt.ids) for prompt in asked.train.prompts)
            loop = assemble(recipe, path, events, asked, ranks, say)
            meter.loaded()
            state = State(coefficient=recipe.kl.coefficient)
            for _ in range(recipe.schedule.iterations):
                loop._iterate(state)  # `train` would end with a checkpoint, of 15 GB with full fine-tuning
            meter.trained()
            raise MeasuredError


def _bytes(which: str) -> int | None:
    return int(getattr(torch.cuda, which)()) if torch.cuda.is_available() else None


def _is_memory(error: BaseException | None) -> bool:
    """Whether it was for want of GPU memory that a run failed."""
    while error is not None:
        if isinstance(error, torch.OutOfMemoryError):
            return True
        error = error.__cause__ or error.__context__
    return False
