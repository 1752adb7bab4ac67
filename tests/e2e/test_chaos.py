"""`ckpt-chaos` kills a run at its file events, before and in the middle of each, and compares the resumed result."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

RUN = "import sys; from ftune.cli.main import main; sys.argv[0] = 'ftune'; main()\n"


def chaos(path: Path, folder: Path, points: int) -> subprocess.CompletedProcess[str]:
    """Kill at up to `points` events; the run must come back with its last complete checkpoint and end the same."""
    (folder / "child.py").write_text(RUN)
    tool = Path(sys.executable).with_name("ckpt-chaos")
    options = ["--work", "chaos", "--max-points", points, "--modes", "before,torn", "--jobs", 1, "--timeout", 120]
    options += ["--checkpoint-glob", "{out}/checkpoint-*", "--ckpt-ignore-size"]
    options += ["--step-regex", r"resumed from step (\d+)"]
    options += ["--result-file", "{out}/adapter/adapter_model.safetensors"]
    options += ["--fail-on", "HARD_FAIL,SILENT_DIVERGENCE,LOST_WORK,CONTROL_FAIL"]
    command = [sys.executable, "child.py", "sft", path, "output_dir={out}", "--resume"]
    words = [tool, "run", *options, "--", *command]
    return subprocess.run([*map(str, words)], cwd=folder, capture_output=True, text=True, check=False)


def check(recipe: Callable[..., Path], folder: Path, points: int) -> None:
    path = recipe(schedule={"max_steps": 2}, checkpoint={"every": 1, "keep": 99})
    done = chaos(path, folder, points)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert "PASS" in done.stdout


def test_killed_at_some_points(recipe: Callable[..., Path], tmp_path: Path) -> None:
    check(recipe, tmp_path, points=4)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_killed_at_every_point(recipe: Callable[..., Path], tmp_path: Path) -> None:
    check(recipe, tmp_path, points=1000)
