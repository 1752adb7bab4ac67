"""Two processes of a run that get signals, together or not, at any time: they stop as one, and nothing is lost."""

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ftune.core.checkpoints import newest_valid
from ftune.report.run_folder import read_state
from tests.conftest import chat_rows, spawn, write_rows
from tests.e2e.test_kills import ENDS_IN_S, digest, in_a_save, steps_told, written
from tests.e2e.test_stops import steps, wait_for_step
from tests.forked import Forked

Write = Callable[..., Path]
STEPS = 120
SKEWS_S = (0.0, 0.1, 0.45, 2.0)
WHERE: list[tuple[int, ...]] = [(0,), (1,), (0, 1), (1, 0)]
"""The ranks that get a signal, in this order."""


def start(path: Path, run: Path, **more: object) -> Forked:
    return Forked("sft", path, f"output_dir={run}", "--resume", cwd=path.parent, ranks=2, **more)  # type: ignore[arg-type]


def begun(process: Forked, run: Path) -> None:
    """Wait until it has made a step since it was started."""
    process.until(lambda: "\nstep " in process.said())
    assert process.running, process.said()
    assert steps(run)


def stopped(process: Forked, run: Path, number: signal.Signals) -> int:
    """The step at which it stopped, and which was saved."""
    assert process.wait(ENDS_IN_S) == [75, 75], process.said()
    assert f"stopped by {number.name} at step" in process.said()
    assert "Traceback" not in process.said()
    assert read_state(run) == "stopped"
    at = steps_told(run)[-1]
    assert newest_valid(run).step == at
    return at


def finished(path: Path, run: Path, whole: Path) -> None:
    last = start(path, run)
    assert last.wait() == [0, 0], last.said()
    assert digest(run) == digest(whole)
    assert steps_told(run) == [*range(1, len(steps_told(whole)) + 1)]


def test_a_signal_to_one_rank_stops_both_at_the_same_step(recipe: Write, tmp_path: Path) -> None:
    path, run = written(recipe, 2, schedule={"max_steps": 100_000}, checkpoint={"every": "never"}), tmp_path / "runs/x"
    process = start(path, run)
    begun(process, run)
    process.send(signal.SIGUSR1, 1)
    assert stopped(process, run, signal.SIGUSR1) >= 1


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_stopped_by_every_signal_at_every_skew_it_ends_as_if_never(recipe: Write, tmp_path: Path) -> None:
    path, run, whole = written(recipe, 2, schedule={"max_steps": STEPS}), tmp_path / "runs/x", tmp_path / "runs/whole"
    assert start(path, whole).wait() == [0, 0]
    reached, stops = 0, 0
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        for ranks in WHERE:
            for skew_s in SKEWS_S if len(ranks) > 1 else (0.0,):
                process = start(path, run)
                begun(process, run)
                process.send(number, ranks[0])
                time.sleep(skew_s)
                if len(ranks) > 1 and process.processes[ranks[1]].is_alive():
                    process.send(number, ranks[1])
                at = stopped(process, run, number)
                assert reached < at < STEPS
                reached, stops = at, stops + 1
    print(f"{stops} of {stops} stops saved at the step that both had reached")
    finished(path, run, whole)


@pytest.mark.slow
def test_evaluations_change_nothing_of_what_is_trained(recipe: Write, tmp_path: Path) -> None:
    """A run that is stopped leaves out the evaluation that was due, and has to end in the same weights."""
    write_rows(tmp_path / "held.jsonl", chat_rows(4, start=100))
    data = {"train": "rows.jsonl", "validation": "held.jsonl", "max_length": 128}
    path = written(recipe, 1, schedule={"max_steps": 3}, data=data)
    runs = [tmp_path / "runs/never", tmp_path / "runs/always"]
    for run, every in zip(runs, ("never", 1), strict=True):
        words = ["sft", path, f"output_dir={run}", f"eval.every={every}"]
        process = Forked(*words, cwd=tmp_path)
        assert process.wait() == [0], process.said()
    assert digest(runs[0]) == digest(runs[1])


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_stopped_in_saves_and_evaluations(recipe: Write, tmp_path: Path) -> None:
    """A signal in an evaluation is followed once the next step has ended; one in a save at once."""
    write_rows(tmp_path / "held.jsonl", chat_rows(64, start=100))
    path = written(
        recipe,
        2,
        schedule={"max_steps": 40},
        data={"train": "rows.jsonl", "validation": "held.jsonl", "max_length": 128},
        eval={"every": 1},
    )
    run, whole, chance = tmp_path / "runs/x", tmp_path / "runs/whole", random.Random(7)  # noqa: S311
    assert start(path, whole).wait() == [0, 0]
    for number, inside in (
        (signal.SIGTERM, True),
        (signal.SIGUSR1, False),
        (signal.SIGINT, True),
        (signal.SIGTERM, False),
    ):
        since = time.time()
        process = start(path, run)
        begun(process, run)
        if inside:
            process.until(lambda since=since: in_a_save(run, since))
        else:
            made = steps(run)
            process.until(lambda made=made: steps(run) > made)  # the evaluation begins when the step has been told
            time.sleep(0.05 * chance.random())
        told = steps_told(run)[-1]
        process.send(number, chance.randrange(2))
        assert stopped(process, run, number) <= told + 2
    finished(path, run, whole)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_second_signal_ends_it_at_once_and_spoils_nothing(recipe: Write, tmp_path: Path) -> None:
    """A step of many micro-batches lasts longer than the second in which signals count as one."""
    write_rows(tmp_path / "rows.jsonl", chat_rows(400))
    batch = {"micro_batch_size": 1, "global_batch_size": 400}
    path = written(recipe, 2, schedule={"max_steps": 2}, checkpoint={"every": 1}, batch=batch)
    run, whole = tmp_path / "runs/x", tmp_path / "runs/whole"
    assert start(path, whole).wait() == [0, 0]
    process = start(path, run)
    begun(process, run)
    process.send(signal.SIGTERM)
    time.sleep(1.5)
    process.send(signal.SIGTERM)
    assert process.wait(ENDS_IN_S) == [143, 143], process.said()
    assert newest_valid(run).step == 1
    finished(path, run, whole)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("ranks", [(0, 1), (0,), (1,)])
def test_a_signal_before_training_ends_both(recipe: Write, tmp_path: Path, ranks: tuple[int, ...]) -> None:
    """Nothing is to be saved then: the run's folder has been opened, rows are being prepared, the model loads."""
    path, run = written(recipe, 2, schedule={"max_steps": 4}), tmp_path / "runs/x"
    process = start(path, run)
    process.until((run / "ftune.json").is_file)
    process.send(signal.SIGTERM, *ranks)
    codes = process.wait(ENDS_IN_S)
    assert all(codes[rank] == -signal.SIGTERM for rank in ranks), process.said()
    assert all(codes), process.said()
    assert steps(run) == 0
    again = start(path, run)
    assert again.wait() == [0, 0], again.said()
    assert steps_told(run) == [1, 2, 3, 4]


def fail_at_step_3() -> None:
    """Let the process with rank 1 meet a fault of its own."""
    from ftune.trainers.reliable import ReliableTrainer

    def broken(self: ReliableTrainer) -> None:
        if os.environ["RANK"] == "1" and self.state.global_step == 2:
            raise ZeroDivisionError("a fault of rank 1 alone")

    ReliableTrainer.after_optimizer_step = broken  # type: ignore[method-assign]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_traceback_of_one_rank_is_shown_by_the_first(recipe: Write, tmp_path: Path) -> None:
    path, run = written(recipe, 2, schedule={"max_steps": 100_000}), tmp_path / "runs/x"
    process = start(path, run, before=fail_at_step_3)
    process.until(lambda: steps(run) >= 2)
    seen_at = time.monotonic()
    codes = process.wait()
    assert time.monotonic() < seen_at + ENDS_IN_S
    assert codes == [1, 1], codes
    terminal = process.logs[0].read_text()
    assert "process 1 (" in terminal
    assert "ZeroDivisionError: a fault of rank 1 alone" in terminal
    assert "in broken" in terminal
    assert read_state(run) == "failed"
    assert "ZeroDivisionError" in (run / "logs/rank1.txt").read_text()


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def gone(pid: int) -> bool:
    """Whether a process has ended; a zombie has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def supervised(path: Path, run: Path) -> "subprocess.Popen[str]":
    """The program as a user starts it: it makes two processes itself."""
    return spawn("sft", path, f"output_dir={run}", "--resume", cwd=path.parent)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_under_ftunes_own_launcher(recipe: Write, tmp_path: Path) -> None:
    """SIGTERM to the supervisor, kill -9 of a rank, then of the supervisor: each time the rest ends by itself."""
    path, run, whole = written(recipe, 2, schedule={"max_steps": STEPS}), tmp_path / "runs/x", tmp_path / "runs/whole"
    process = supervised(path, run)
    wait_for_step(run, 3, 600)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=ENDS_IN_S)
    assert process.returncode == 75, err
    assert "stopped by SIGTERM at step" in err

    at = newest_valid(run).step
    process = supervised(path, run)
    wait_for_step(run, at + 3, 600)
    os.kill(children(process.pid)[1], signal.SIGKILL)
    _, err = process.communicate(timeout=ENDS_IN_S)
    assert process.returncode == 137, err
    assert "rank 1 was killed by SIGKILL" in err
    assert (run / "logs/rank0.txt").is_file()
    assert (run / "logs/rank1.txt").is_file()

    at = steps(run)
    process = supervised(path, run)
    wait_for_step(run, at + 3, 600)
    ranks = children(process.pid)
    process.kill()
    process.communicate(timeout=ENDS_IN_S)  # its streams stay open as long as a rank lives
    assert len(ranks) == 2
    assert all(gone(pid) for pid in ranks)
    assert read_state(run) == "stopped"

    process = supervised(path, run)
    _, err = process.communicate(timeout=1200)
    assert process.returncode == 0, err
    assert start(path, whole).wait() == [0, 0]
    assert digest(run) == digest(whole)
    assert steps_told(run) == [*range(1, STEPS + 1)]
    assert json.loads((run / "ftune.json").read_text())["state"] == "done"
