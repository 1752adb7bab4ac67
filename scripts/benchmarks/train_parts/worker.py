"""One measurement: a job as JSON in the first argument, a line on stdin to begin, its result as the last on stdout."""

import json
import sys
from importlib import import_module

from train_parts.work import Job

HEAVY = ["trl", "peft", "ftune.trainers.sft", "ftune.recipes.runs.sft"]
"""Imported before a measurement begins, which is told by a line on stdin."""


def main() -> None:
    """Measure and tell."""
    job = Job.of(json.loads(sys.argv[1]))
    for module in HEAVY:
        import_module(module)
    if job.way.startswith("TRL"):
        from train_parts.peers import train
    elif job.way.startswith("ftune"):
        from train_parts.ours import train
    else:
        from train_parts.tuned import train
    sys.stdin.readline()
    print("\n" + json.dumps(train(job)), flush=True)


if __name__ == "__main__":
    main()
