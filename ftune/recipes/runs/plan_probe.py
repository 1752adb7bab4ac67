"""`ftune plan --probe`: a few steps of a recipe on this machine, and what they measure."""

import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import TYPE_CHECKING

from ftune.core.errors import FtuneError, RecipeError
from ftune.core.say import Say
from ftune.core.signals import SAME_REQUEST_S
from ftune.recipes.runs.plan_changes import command_of
from ftune.recipes.runs.plan_rows import Rows, rows_of_recipe
from ftune.recipes.training import TrainingRecipe
from ftune.report.run_record import RunRecord, read_run

if TYPE_CHECKING:
    from ftune.recipes.load import Loaded
    from ftune.recipes.runs.plan_changes import Trained

STEPS = 3

LAST = 2
"""Of the steps, those whose speed counts: the first one loads and compiles."""

PATIENCE_S = 15.0
"""For a run that was told a second time to end."""

GIB = 2**30

Program = Callable[[Sequence[str]], Sequence[str]]
"""Makes the command of a process from the words after `ftune`."""


@dataclass(frozen=True, slots=True)
class Probe:
    """What a few steps measured, over all processes together."""

    steps: int
    seconds: float
    """Of one step, or one iteration of PPO: the mean of the last ones."""
    tokens: float
    """Of one of these steps, without padding."""
    peak: int | None
    """Bytes of the GPU whose peak is highest; None on a CPU."""
    rows: Rows
    """As the run has counted them."""

    @property
    def tokens_per_s(self) -> float:
        """Of all devices together."""
        return self.tokens / self.seconds


def probe(loaded: "Loaded", recipe: "Trained", program: Program, positions: int) -> Probe:
    """Run three steps of the recipe in a folder that is gone afterwards, however this ends.

    `positions` as in `rows_of_recipe`. Raises RecipeError where the run found its input to be wrong, FtuneError where
    it failed otherwise.
    """
    if not loaded.path.is_file():
        raise RecipeError(
            f"--probe: {loaded.path}: the run reads the recipe again, and this can be read once; give a file"
        )
    with _term_as_exit(), TemporaryDirectory(prefix="ftune-probe-") as folder:
        output = Path(folder) / "run"
        Say().line(
            f"probe: {STEPS} steps of {loaded.path} run here; it takes as long as loading its rows and its model"
        )
        words = [command_of(recipe), str(loaded.path), *loaded.overrides, *_overrides(recipe, output)]
        _run(program(words), Path(folder) / "said.txt")
        return _measured(
            read_run(output), rows_of_recipe(recipe.model_copy(update={"output_dir": str(output)}), positions)
        )


def _overrides(recipe: "Trained", output: Path) -> list[str]:
    """What makes a short run of it that keeps nothing."""
    words = [f"output_dir={output}", "checkpoint.every=never", "log.every=1", "log.trackers=[]"]
    if recipe.data.validation is not None:
        words.append("eval.every=never")
    if isinstance(recipe, TrainingRecipe):
        return [*words, "schedule.epochs=null", f"schedule.max_steps={STEPS}"]
    return [*words, f"schedule.iterations={STEPS}", "log.samples_every=never"]


def _run(command: Sequence[str], said: Path) -> None:
    """Wait for the command, which is ended where this process has to end. Raises RecipeError and FtuneError."""
    quiet = {**os.environ, "FTUNE_DEBUG": "0"}  # one line says what went wrong
    with said.open("wb") as errors:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            env=quiet,
            start_new_session=True,
        )
        try:
            code = process.wait()
        except BaseException:
            _end(process)
            raise
    if code:
        failed = RecipeError if code == RecipeError.exit_code else FtuneError
        raise failed(f"--probe: {_cause(said.read_text(encoding='utf-8', errors='replace'), code)}")


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End a run: asked once it saves its state, asked twice it ends at once."""
    for patience_s in (SAME_REQUEST_S + 0.5, PATIENCE_S):
        process.terminate()
        try:
            process.wait(patience_s)
        except subprocess.TimeoutExpired:
            continue
        return
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@contextmanager
def _term_as_exit() -> Iterator[None]:
    """Let SIGTERM end this process as Ctrl-C does, through all that cleans up."""

    def leave(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _cause(said: str, code: int) -> str:
    """The one line that says why a run failed."""
    if code < 0:
        return f"the run was killed by {signal.Signals(-code).name}"
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    for index, line in reversed(list(enumerate(lines))):
        if line == "errors:":
            return lines[index + 1]
        for start in ("error: ", "internal error: "):
            if line.startswith(start):
                return line.removeprefix(start)
    return lines[-1] if lines else f"the run ended with exit code {code} and said nothing"


def _measured(run: RunRecord, rows: Rows) -> Probe:
    events = run.of_kind("step")
    if not events:
        raise FtuneError("--probe: the run has ended without a step")
    last = events[-LAST:]
    on_gpu = str(run.last("model").get("device") or "cpu").lower() != "cpu"
    peak = max(float(event["memory_gib"]) for event in events)
    return Probe(
        steps=len(events),
        seconds=sum(map(_seconds, last)) / len(last),
        tokens=sum(event["tokens"] for event in last) / len(last),
        peak=round(peak * GIB) if on_gpu else None,
        rows=replace(rows, said_by="the rows, as the probe has counted them") if rows.counted else rows,
    )


def _seconds(event: dict[str, float | dict[str, float]]) -> float:
    """Of a step."""
    parts = event.get("seconds")
    if isinstance(parts, dict):  # an iteration of PPO, which does not compute all the time
        return sum(parts.values())
    return float(event["tokens"]) / float(event["tokens_per_s"])  # type: ignore[arg-type]
