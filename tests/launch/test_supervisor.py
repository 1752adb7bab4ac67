"""The processes of a node as their supervisor sees them, with small programs in place of ftune."""

import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

START = """
import signal, sys
from pathlib import Path
from ftune.launch import supervisor
from ftune.launch.processes import Share
supervisor.AFTER_FAILURE_S = ((0.3, signal.SIGTERM), (0.6, signal.SIGKILL))
supervisor.AFTER_SECOND_SIGNAL_S = ((0.4, signal.SIGKILL),)
supervisor.SAME_REQUEST_S = 0.2
program, count, node = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
command = [sys.executable, "-S", "-c", program]
sys.exit(supervisor.supervise(command, Share(count, node + 1, node, "127.0.0.1", 29500), Path("logs")))
"""
RANK = """
import os, signal, sys, time
from pathlib import Path
rank = os.environ["RANK"]
taken = Path("signals" + rank)
def take(number, _frame):
    with taken.open("a") as file:
        file.write(signal.Signals(number).name + " ")
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, take)
Path("pid" + rank).write_text(str(os.getpid()))
def wait_for(path, seconds=20.0):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not path.exists():
        time.sleep(0.01)
"""
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts processes that run a program after RANK, in the test's folder; kills what is left of them."""
    started: list[subprocess.Popen[str]] = []

    def begin(program: str, count: int = 2, node: int = 0, terminal: int | None = None) -> "subprocess.Popen[str]":
        words = [sys.executable, "-c", START, RANK + program, str(count), str(node)]
        if terminal is None:
            process = subprocess.Popen(words, cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        else:
            words = ["setsid", "--ctty", "--wait", *words]  # Ctrl-C reaches the group in front of this terminal
            process = subprocess.Popen(words, cwd=tmp_path, text=True, stdin=terminal, stdout=terminal, stderr=terminal)
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
    for file in tmp_path.glob("pid*"):
        if is_running(int(file.read_text())):
            os.kill(int(file.read_text()), signal.SIGKILL)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def pids(folder: Path, kind: str = "pid") -> list[int]:
    """The processes of two ranks, once both have got so far as to take signals; or the children of both."""
    files = [folder / f"{kind}{rank}" for rank in range(2)]
    assert until(lambda: all(file.exists() and file.read_text() for file in files))
    return [int(file.read_text()) for file in files]


def test_each_process_is_told_its_place_and_rank_0_has_the_terminal(start: Start) -> None:
    names = ["RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT"]
    process = start(f"print(*[os.environ[name] for name in {names!r}])", count=3)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 0
    assert out == "0 3 0 3 0 127.0.0.1 29500\n"
    assert err == ""


def test_threads_are_shared_out_unless_the_user_has_said_how_many(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    cores = len(os.sched_getaffinity(0))
    assert (
        start("print(os.environ['OMP_NUM_THREADS'])", count=2).communicate(timeout=20)[0] == f"{max(1, cores // 2)}\n"
    )
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert start("print(os.environ['OMP_NUM_THREADS'])", count=1).communicate(timeout=20)[0] == "7\n"


def test_the_first_that_fails_gives_the_exit_code_and_its_last_words(start: Start) -> None:
    process = start("if rank == '1': print('first', 'x' * 9000); sys.exit('last: it broke')\nwait_for(Path('never'))")
    _, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert err == "error: rank 1 ended with exit code 1\n  last: it broke\n"


def test_where_rank_0_has_said_why_nothing_is_added(start: Start, tmp_path: Path) -> None:
    program = """
if rank == '1': sys.exit(70)
wait_for(Path('pid1'))
while True:  # until the supervisor has taken note of its end
    try:
        os.kill(int(Path('pid1').read_text() or 1), 0)
    except ProcessLookupError:
        sys.exit('rank 1 is gone')
"""
    process = start(program)
    _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (70, "rank 1 is gone\n")


def test_on_another_node_nobody_has_the_terminal_so_the_supervisor_speaks(start: Start, tmp_path: Path) -> None:
    process = start("print('no route to', rank); sys.exit(2)", count=1, node=1)
    assert process.communicate(timeout=20) == ("", "error: rank 1 ended with exit code 2\n  no route to 1\n")
    (tmp_path / "logs").mkdir()
    log = tmp_path / "logs/rank2.txt"
    log.write_text("a run that ended well\n" * 999)
    program = "if rank == '3': sys.exit(0)\nwith open('logs/rank2.txt', 'a') as log: log.write('lost\\n')\nsys.exit(9)"
    process = start(program, count=2, node=1)
    _, err = process.communicate(timeout=20)
    assert err.startswith("error: rank 2 ended with exit code 9; see logs/rank2.txt\n  a run")
    assert err.endswith("\n  lost\n")
    assert err.count("\n") == 21
    assert process.returncode == 9


def test_a_killed_rank_ends_the_others_and_what_they_have_started(start: Start, tmp_path: Path) -> None:
    program = (
        "import subprocess; child = subprocess.Popen(['sleep', '60'])\n"
        "Path('child' + rank).write_text(str(child.pid)); time.sleep(60)"
    )
    process = start(program)
    started = pids(tmp_path) + pids(tmp_path, "child")
    os.kill(started[1], signal.SIGKILL)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 137
    assert err == "error: rank 1 was killed by SIGKILL; the kernel does so when memory runs out ('dmesg')\n"
    assert (tmp_path / "signals0").read_text() == "SIGTERM "  # asked first
    assert until(lambda: not any(map(is_running, started)), 2)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_stop_reaches_each_once_and_waits_for_a_slow_save(
    start: Start, tmp_path: Path, number: signal.Signals
) -> None:
    """The save takes longer than a failed or a twice interrupted run would be given."""
    process = start("wait_for(taken); time.sleep(0.8 * int(rank)); Path('saved' + rank).touch(); sys.exit(75)")
    pids(tmp_path)
    for _ in range(3):
        process.send_signal(number)
    _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (75, "")
    assert {file.name for file in tmp_path.glob("saved*")} == {"saved0", "saved1"}
    assert [(tmp_path / f"signals{rank}").read_text() for rank in range(2)] == [f"{number.name} "] * 2


def test_a_second_signal_is_passed_on_and_then_ends_what_does_not_end(start: Start, tmp_path: Path) -> None:
    process = start("wait_for(Path('never'))")
    pids(tmp_path)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=5)
    assert (process.returncode, err) == (130, "")
    assert [(tmp_path / f"signals{rank}").read_text() for rank in range(2)] == ["SIGTERM SIGINT "] * 2
    assert not any(map(is_running, pids(tmp_path)))


def test_the_end_of_the_supervisor_asks_its_processes_to_stop(start: Start, tmp_path: Path) -> None:
    process = start("wait_for(taken); sys.exit(75)")
    running = pids(tmp_path)
    process.kill()
    assert until(lambda: not any(map(is_running, running)))
    assert [(tmp_path / f"signals{rank}").read_text() for rank in range(2)] == ["SIGTERM "] * 2


def test_ctrl_c_in_a_terminal_reaches_each_once(start: Start, tmp_path: Path) -> None:
    mine, terminal = pty.openpty()
    program = "print(sys.stderr.isatty(), flush=True); wait_for(taken); time.sleep(0.2); sys.exit(75)"
    process = start(program, terminal=terminal)
    os.close(terminal)
    pids(tmp_path)
    os.write(mine, b"\x03")
    assert process.wait(timeout=20) == 75
    assert [(tmp_path / f"signals{rank}").read_text() for rank in range(2)] == ["SIGINT "] * 2
    assert os.read(mine, 1000).split()[0] == b"True"
    os.close(mine)
