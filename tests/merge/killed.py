"""A merge that is killed at each of its steps on the disk in turn, as `kill -9` does it, in processes of its own."""

import json
import os
import shutil
import signal
import sys
from importlib import import_module
from pathlib import Path

from ftune.core.checkpoints import verify

STEPS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "shutil.rmtree"}
"""What Python tells of changes on the disk; reading is left out below."""

IMPORTED = [
    *("ftune.recipes.runs.merge_write", "ftune.recipes.runs.merge_proof", "ftune.merge.engines.adapter"),
    *("ftune.merge.engines.compared", "ftune.peft.tuners", "transformers.models.llama.modeling_llama"),
]
"""What a merge imports in the end."""


def die_at(step: int, folder: str) -> None:
    """Kill this process where it is about to change something in `folder` for the `step`th time."""
    seen = 0

    def told(event: str, words: tuple[object, ...]) -> None:
        nonlocal seen
        if event not in STEPS or not str(words[0]).startswith(folder):
            return
        if event == "open" and not int(str(words[2])) & (os.O_WRONLY | os.O_RDWR):
            return
        if seen == step:
            os.kill(os.getpid(), signal.SIGKILL)
        seen += 1

    sys.addaudithook(told)


def die_everywhere(folder: Path, output: Path, old: Path | None, stride: int, told: Path) -> None:
    """Run what follows again and again, killed a step later each time, until it is not; then return, to run it again.

    Before each, `output` is what `old` is. `told` gets, as JSON lines, what was there after each kill.
    """
    for module in IMPORTED:
        import_module(module)
    for step in range(0, 1000, stride):
        if output.exists():
            shutil.rmtree(output)
        if old is not None:
            shutil.copytree(old, output)
        if (child := os.fork()) == 0:
            die_at(step, str(folder))
            return
        status = os.waitpid(child, 0)[1]
        problems = verify(output) if output.exists() else None
        dtype = json.loads((output / "config.json").read_text())["dtype"] if output.exists() else None
        line = {"killed": os.WIFSIGNALED(status), "problems": problems, "dtype": dtype}
        with told.open("a") as log:
            log.write(json.dumps(line) + "\n")
        if not line["killed"]:
            break
    shutil.rmtree(output, ignore_errors=True)
