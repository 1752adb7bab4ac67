"""A program in a process of its own that says where it stands, and goes on when it is told to."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def conversing(program: str, *words: str, begins: str) -> Iterator["subprocess.Popen[str]"]:
    """Python that runs `program` and has said the line `begins`; it is killed in the end."""
    command = [sys.executable, "-c", program, *words]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == f"{begins}\n"
        yield process
        process.kill()
