"""`ftune sft` or `ftune rm` as a user starts it, in this process."""

import sys
import tempfile
from pathlib import Path
from typing import Any

from train_parts.clock import Clock, watch_every_trainer
from train_parts.work import FP8, Job, Result

RUN = 2000
"""Steps of the run that is measured at its beginning: what starts slowly to be fast later is for such runs."""


def train(job: Job) -> Result:
    """`ftune sft` with the recipe's own settings; packed where the way says it."""
    words = []
    if job.way != "ftune":
        words += ["data.packing=true", f"batch.gradient_accumulation_steps={job.setting.passes}"]
    if job.way.endswith("bf16 weights"):
        words += ["optim.optimizer=adamw_bf16", "model.dtype=bf16"]
    if fp8 := FP8.get(job.way.removesuffix(", bf16 weights")):
        words.append(f"speed.fp8={fp8}")
    return measured(job, "sft", words)


def measured(job: Job, command: str, words: list[str]) -> Result:
    """`ftune COMMAND` with the job's recipe and further words."""
    from ftune.trainers.reliable import ReliableTrainer

    clock = Clock(job)
    watch_every_trainer(clock)
    plain = ReliableTrainer._prepare_inputs

    def counting(self: ReliableTrainer, inputs: dict[str, Any]) -> dict[str, Any]:
        if "tokens" in inputs and self.model.training:  # a batch is made ahead of the step that computes it
            clock.saw(inputs["tokens"])
        return plain(self, inputs)

    ReliableTrainer._prepare_inputs = counting  # type: ignore[method-assign]
    ours = ["schedule.epochs=null", f"schedule.max_steps={RUN}", "checkpoint.every=never"]
    events = run(job.recipe, [*ours, *words], command)
    told = {event["kind"]: event for event in events}
    peak = max(event["memory_gib"] for event in events if event["kind"] == "step")  # not of the proof behind them
    return clock.result() | {
        "peak_gib": round(peak, 2),
        "predicted_gib": told.get("predicted", {}).get("memory_gib"),
        "mfu": told["step"].get("mfu"),
        "speed": told["speed"],
    }


def run(recipe: str, words: list[str], command: str = "sft") -> list[dict[str, Any]]:
    """The events of `ftune COMMAND RECIPE WORDS`; what it leaves otherwise is removed."""
    from ftune.cli.main import main
    from ftune.report.events import read_events

    with tempfile.TemporaryDirectory() as folder:
        sys.argv = ["ftune", command, recipe, f"output_dir={Path(folder) / 'run'}", *words]
        try:
            main()
        except SystemExit as stop:
            if stop.code:
                raise RuntimeError(f"ftune ended with {stop.code}") from None
        return read_events(Path(folder) / "run" / "events.jsonl")
