"""One measurement: a job as JSON in the first argument, a line on stdin to begin, its result as the last on stdout."""

import json
import os
import sys
import tempfile
from importlib import import_module
from pathlib import Path

from train_parts.work import UNSLOTH, Job

HEAVY = ["trl", "peft", "ftune.trainers.sft", "ftune.recipes.runs.sft"]
"""Imported before a measurement begins, which is told by a line on stdin."""
HEAVY_OF_UNSLOTH = ["unsloth", "trl", "peft", "ftune.recipes.runs.inputs"]
"""Unsloth patches what is imported behind it, and has a TRL that ftune's trainers are not made for."""


def main() -> None:
    """Measure and tell."""
    job = Job.of(json.loads(sys.argv[1]))
    if job.way == UNSLOTH:
        os.environ.setdefault("UNSLOTH_DISABLE_STATISTICS", "1")
        os.environ.setdefault("UNSLOTH_COMPILE_LOCATION", str(Path(tempfile.gettempdir()) / "unsloth_compiled_cache"))
    for module in HEAVY_OF_UNSLOTH if job.way == UNSLOTH else HEAVY:
        import_module(module)
    if job.setting.pairs:
        from train_parts.reward import train
    elif job.overrides:
        from train_parts.curve import train
    elif job.way.startswith("TRL"):
        from train_parts.peers import train
    elif job.way.startswith("ftune"):
        from train_parts.ours import train
    elif job.way == UNSLOTH:
        from train_parts.unsloth_way import train
    else:
        from train_parts.tuned import train
    sys.stdin.readline()
    print("\n" + json.dumps(train(job)), flush=True)


if __name__ == "__main__":
    main()
