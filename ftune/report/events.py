"""`events.jsonl`, the one record of a run: progress, curves, trackers and reports are all drawn from it.

One JSON object a line, each with `time` and `kind`, each written by a single call, so a killed run leaves at most one
torn line at the end. The file only grows: what a resumed run repeats is written again after a `resumed` event, and
`read_events` returns the history that counts.
"""

import errno
import json
import math
import os
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from ftune.core.checkpoints import storage_errors
from ftune.core.errors import DataError

Event = dict[str, Any]

PROGRESS = {"step", "eval", "skipped", "checkpoint", "save_failed"}
"""The kinds that a resumed run writes anew for each step after its checkpoint."""

MASK = "[redacted]"
SECRETS = [
    re.compile(r"\bhf_[A-Za-z0-9]{16,}"),  # Hugging Face
    re.compile(r"\bsk-(?=[\w-]*[0-9])[\w-]{16,}"),  # OpenAI and those who follow it
    re.compile(r"\bgh[opsur]_[A-Za-z0-9]{20,}|\bgithub_pat_\w{20,}|\bglpat-[\w-]{16,}"),  # GitHub, GitLab
    re.compile(r"\bAKIA[A-Z0-9]{16}\b"),  # AWS
    re.compile(r"(?i)(?<=bearer )[\w.~+/-]{16,}=*"),
    re.compile(r"(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"),  # user and password in a URL
    re.compile(r"(?i)(?P<name>(?:key|token|secret|password)[\"']?\s*[=:]\s*[\"']?)[0-9a-f]{40}\b"),  # Weights & Biases
]


def redact(text: str) -> str:
    """`text` without access tokens and passwords; hashes and revisions stay."""
    for secret in SECRETS:
        text = secret.sub(lambda match: match.groupdict().get("name", "") + MASK, text)
    return text


class EventLog:
    """The writer of one `events.jsonl`; a context manager."""

    def __init__(self, path: Path, resume_step: int | None = None) -> None:
        """Open `path` to append to it; with `resume_step`, earlier progress after that step counts no more."""
        self.path = path
        self.listeners: list[Callable[[Event], None]] = []
        """Called with each event that is written."""
        with storage_errors(path):
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
            os.ftruncate(self._descriptor, _whole_bytes(path.read_bytes()))
        if resume_step is not None:
            self.write("resumed", step=resume_step)

    def write(self, kind: str, **fields: object) -> Event:
        """Append one event, and return it as it was written.

        JSON has no NaN and no infinity: such a number becomes null, and `non_finite` says which one it was. Secrets
        in texts are masked.
        """
        non_finite: dict[str, str] = {}
        event: Event = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "kind": kind}
        event |= {name: _plain(name, value, non_finite) for name, value in fields.items()}
        if non_finite:
            event["non_finite"] = non_finite
        line = json.dumps(event, ensure_ascii=False, allow_nan=False).encode(errors="replace") + b"\n"
        with storage_errors(self.path):
            whole = os.fstat(self._descriptor).st_size
            if os.write(self._descriptor, line) < len(line):
                os.ftruncate(self._descriptor, whole)
                raise OSError(errno.ENOSPC, "short write")
        for listener in self.listeners:
            listener(event)
        return event

    def close(self) -> None:
        """Close the file; nothing is buffered, so a killed run loses nothing."""
        os.close(self._descriptor)

    def __enter__(self) -> "EventLog":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class UnwrittenLog(EventLog):
    """The log of a process that leaves the writing to the first one."""

    def __init__(self) -> None:
        """Opens nothing."""

    def write(self, kind: str, **fields: object) -> Event:
        """Write nothing."""
        return {"kind": kind, **fields}

    def close(self) -> None:
        """Nothing to close."""


def read_events(path: Path) -> list[Event]:
    """The history that counts: all events but the progress that a later resume has taken back.

    A torn line at the end is passed over; raises DataError for a broken line elsewhere.
    """
    with storage_errors(path):
        content = path.read_bytes()
    history: list[Event] = []
    for number, line in enumerate(content[: _whole_bytes(content)].splitlines(), start=1):
        event = _event(line)
        if event is None:
            raise DataError(f"{path}:{number}: is not an event; remove the line or take the file of another run")
        if event["kind"] == "resumed":
            history = [old for old in history if old["kind"] not in PROGRESS or old.get("step", 0) <= event["step"]]
        history.append(event)
    return history


def _whole_bytes(content: bytes) -> int:
    """How much of a file is left when torn lines are cut from its end."""
    end = content.rfind(b"\n") + 1
    while end and _event(content[content.rfind(b"\n", 0, end - 1) + 1 : end]) is None:
        end = content.rfind(b"\n", 0, end - 1) + 1
    return end


def _event(line: bytes) -> Event | None:
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    whole = isinstance(event, dict) and isinstance(event.get("kind"), str) and "time" in event
    return event if whole and (event["kind"] != "resumed" or isinstance(event.get("step"), int)) else None


def _plain(name: str, value: Any, non_finite: dict[str, str]) -> object:
    """`value` as strict JSON; numbers of torch and numpy become plain ones."""
    if isinstance(value, str | Path):
        return redact(f"{name}={value}").removeprefix(f"{name}=")  # the name tells a key from a revision
    if isinstance(value, dict):
        return {str(key): _plain(f"{name}.{key}", item, non_finite) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(f"{name}.{index}", item, non_finite) for index, item in enumerate(value)]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        non_finite[name] = str(value)
        return None
    return value
