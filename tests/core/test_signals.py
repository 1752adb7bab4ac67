"""Signals as a run takes them, in a process of its own."""

import signal
import subprocess
import sys
import time

PROGRAM = """
import sys, time
from ftune.core.signals import StopSignal
stop = StopSignal()
with stop.listening():
    print("listening", flush=True)
    time.sleep(float(sys.argv[1]))
print(stop.received.name)
"""


def listening(seconds: float) -> "subprocess.Popen[str]":
    words = [sys.executable, "-c", PROGRAM, str(seconds)]
    process = subprocess.Popen(words, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == "listening\n"
    return process


def test_signals_that_come_together_are_one_request_that_is_remembered() -> None:
    process = listening(0.5)
    for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
        process.send_signal(number)
        time.sleep(0.05)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    assert out == "SIGUSR1\n"
    assert err.count("stopping after this step") == 1


def test_a_later_signal_ends_at_once() -> None:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    processes = [listening(60) for _ in numbers]
    for process in processes:
        process.send_signal(signal.SIGTERM)
    time.sleep(1.1)
    for process, number in zip(processes, numbers, strict=True):
        process.send_signal(number)
    for process, number in zip(processes, numbers, strict=True):
        process.communicate(timeout=20)
        assert process.returncode == 128 + number


def test_a_terminal_that_is_gone_does_not_keep_the_request_from_being_taken() -> None:
    process = listening(0.5)
    assert process.stderr is not None
    process.stderr.close()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 0
