"""`ckpt-chaos` kills a run at its file events, before and in the middle of each, and compares the resumed result.

The tool starts a command at each of them, as one process or as several that join each other. Here it forks them from
one that has imported everything, and the tool's injector is armed in the forked process.
"""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import wait
from pathlib import Path

import ckpt_chaos.byo
import ckpt_chaos.cli
import pytest

from tests.forked import Forked

Write = Callable[..., Path]
Environment = Mapping[str, str]
ALL = 1000
LOG_TORN = ".txt [torn]"
"""A file is torn when it is closed, which that of a process's log never is."""


def _run(command: Sequence[str], environment: Environment, cwd: str, timeout_s: int) -> tuple[int, str]:
    """What the tool does for one process."""
    run_dir = Path(next(word for word in command if word.startswith("output_dir=")).partition("=")[2])
    return _run_group([command], [environment], cwd, timeout_s, run_dir.parent)


def _run_group(
    commands: Sequence[Sequence[str]], environments: Sequence[Environment], cwd: str, timeout_s: int, folder: Path
) -> tuple[int, str]:
    """What the tool does for several processes: when one is killed, the others get some seconds to end."""
    run = Forked(*commands[0], cwd=Path(cwd), ranks=len(commands), variables=environments, log=str(folder / "said"))
    running = list(run.processes)
    until = time.monotonic() + timeout_s
    while running and time.monotonic() < until:
        wait([process.sentinel for process in running], until - time.monotonic())
        for process in [process for process in running if not process.is_alive()]:
            running.remove(process)
            if process.exitcode:
                until = min(until, time.monotonic() + ckpt_chaos.byo.PEER_GRACE_S)
    for process in running:
        process.kill()
    codes = run.wait()
    return next((code or 0 for code in codes if code), 0), run.said()


@pytest.fixture
def chaos(
    recipe: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., int]:
    """Kill at up to so many events; the run must come back with its last complete checkpoint and end the same.

    Gives the number of events at which it was killed.
    """
    monkeypatch.setattr(ckpt_chaos.byo, "_run", _run)
    monkeypatch.setattr(ckpt_chaos.byo, "_run_group", _run_group)

    def kill(points: int, *, ranks: int = 1, crash_rank: int = 0, jobs: int = 1) -> int:
        monkeypatch.setenv("CKPT_CHAOS_CRASH_RANK", str(crash_rank))  # 0.1.8 does not say so itself, and kills none
        backend = {"type": "ddp", "num_processes": ranks, "device": "cpu"} if ranks > 1 else {"type": "single"}
        path = recipe(schedule={"max_steps": 2}, checkpoint={"every": 1, "keep": 99}, backend=backend)
        options = ["--work", tmp_path / "chaos", "--max-points", points, "--modes", "before,torn", "--timeout", 300]
        options += ["--jobs", jobs, "--ranks", ranks, "--crash-rank", crash_rank]
        options += ["--checkpoint-glob", "{out}/checkpoint-*", "--ckpt-ignore-size"]
        options += ["--step-regex", r"resumed from step (\d+)"]
        options += ["--result-file", "{out}/adapter/adapter_model.safetensors"]
        options += ["--fail-on", "HARD_FAIL,SILENT_DIVERGENCE,LOST_WORK,CONTROL_FAIL"]
        words = ["run", *options, "--", "sft", path, "output_dir={out}", "--resume"]
        code = ckpt_chaos.cli.main([*map(str, words)])
        said = capsys.readouterr().out
        assert code == 0, said[-6000:]
        lived = [line for line in said.splitlines() if "DID NOT CRASH" in line]
        assert all(LOG_TORN in line for line in lived), said[-6000:]
        print(said)
        killed = len(re.findall(r"\[(?:before|torn)\].*\bPASS\b", said))
        assert killed == int(re.search(r"(\d+) crash points", said)[1])  # type: ignore[index]
        return killed

    return kill


@pytest.mark.slow
@pytest.mark.parametrize(("ranks", "crash_rank", "points"), [(1, 0, 1), (2, 1, 2)])
def test_killed_at_some_points(chaos: Callable[..., int], ranks: int, crash_rank: int, points: int) -> None:
    assert chaos(points, ranks=ranks, crash_rank=crash_rank) == points


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize(("ranks", "crash_rank"), [(1, 0), (2, 0), (2, 1)])
def test_killed_at_every_point(chaos: Callable[..., int], ranks: int, crash_rank: int) -> None:
    assert chaos(ALL, ranks=ranks, crash_rank=crash_rank, jobs=3) > 10
