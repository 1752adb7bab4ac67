"""Each measurement in a process of its own: what it needs is imported while the one before it is measured."""

import json
import os
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from backends_parts.results import tell

from train_parts.work import Job, Result

HERE = Path(__file__).parents[1]
ROOT = HERE.parents[1]


def start(job: Job) -> subprocess.Popen[str]:
    """The process of a job, which imports what it needs and waits for a line before it begins."""
    paths = [job.packages, str(HERE), str(ROOT), os.environ.get("PYTHONPATH", "")]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}
    command = [sys.executable, "-m", "train_parts.worker", json.dumps(job.plain())]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=env, cwd=ROOT, text=True, stdin=pipe, stdout=pipe, stderr=pipe)


def finish(job: Job, process: subprocess.Popen[str], limit_s: float) -> Result:
    """The result of a job, or its last words as `error`."""
    known = {"setting": job.setting.name, "way": job.way}
    try:
        out, err = process.communicate("begin\n", timeout=limit_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return {**known, "error": f"not done within {limit_s:.0f} s"}
    lines = [line for line in out.splitlines() if line.startswith('{"setting"')]
    if process.returncode or not lines:
        said = err.strip().splitlines() or [f"ended with {process.returncode}"]
        told = [line for line in said if line.startswith("error: ")]  # by ftune, which is behind a traceback here
        return {**known, "error": (told or said)[-1][:300]}
    result: Result = json.loads(lines[-1])
    return result


def results_of(jobs: Iterator[Job], limit_s: float, *, ahead: bool) -> Iterator[Result]:
    """Of each job in turn; `ahead`, the next one's process imports while this one is measured."""
    waiting = deque((job, start(job)) for job in islice(jobs, 2 if ahead else 1))
    while waiting:
        yield finish(*waiting.popleft(), limit_s)
        waiting.extend((job, start(job)) for job in islice(jobs, 1))


def measured(jobs: Iterator[Job], limit_s: float, results: Path | None, *, ahead: bool) -> list[Result]:
    """The results of all jobs, each told and kept when it is there."""
    found = []
    for result in results_of(jobs, limit_s, ahead=ahead):
        found.append(result)
        tell(result, results)
    return found
