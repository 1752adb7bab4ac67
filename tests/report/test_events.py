"""The event log against kills, resumes, odd numbers and secrets."""

import errno
import json
import math
import os
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ftune.core.errors import DataError, StorageError
from ftune.report.events import EventLog, read_events, redact


def steps(path: Path) -> list[tuple[int, float]]:
    return [(event["step"], event["loss"]) for event in read_events(path) if event["kind"] == "step"]


def write_steps(log: EventLog, first: int, last: int, loss: float) -> None:
    for step in range(first, last + 1):
        log.write("step", step=step, loss=loss)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


def test_an_event_is_one_line_with_time_and_kind(path: Path) -> None:
    with EventLog(path) as log:
        written = log.write("step", step=1, loss=0.5, note="größer\nline")
    [line] = path.read_text().splitlines()
    assert json.loads(line) == written
    assert list(written) == ["time", "kind", "step", "loss", "note"]
    assert datetime.fromisoformat(written["time"]).utcoffset().total_seconds() == 0
    assert read_events(path) == [written]


def test_each_event_is_on_disk_at_once_and_by_one_call(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    write = os.write
    with EventLog(path) as log:
        monkeypatch.setattr(os, "write", lambda descriptor, data: calls.append(data) or write(descriptor, data))
        log.write("start", versions={"torch": "2.13"}, text="x" * 100_000)
        assert len(calls) == 1
        assert path.read_bytes() == calls[0]


def test_odd_numbers_are_null_with_a_note(path: Path) -> None:
    with EventLog(path) as log:
        log.write("step", step=3, loss=math.nan, grad_norm=math.inf, rates=[1.0, -math.inf], token_accuracy=0.5)
    event = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert (event["loss"], event["grad_norm"], event["rates"]) == (None, None, [1.0, None])
    assert event["non_finite"] == {"loss": "nan", "grad_norm": "inf", "rates.1": "-inf"}


def test_paths_and_numbers_of_arrays_become_plain(path: Path) -> None:
    class Scalar:
        def item(self) -> float:
            return 0.25

    with EventLog(path) as log:
        event = log.write("checkpoint", path=Path("runs/a"), loss=Scalar(), rows=(1, 2))
    assert (event["path"], event["loss"], event["rows"]) == ("runs/a", 0.25, [1, 2])


def test_a_value_that_is_not_json_is_a_bug(path: Path) -> None:
    with EventLog(path) as log, pytest.raises(TypeError):
        log.write("step", loss=object())
    assert path.read_bytes() == b""


def test_a_resumed_run_takes_back_what_came_after_its_checkpoint(path: Path) -> None:
    with EventLog(path) as log:
        write_steps(log, 1, 6, 1.0)
        log.write("eval", step=6, loss=2.0)
        log.write("stopped", step=6)
    with EventLog(path, resume_step=4) as log:
        write_steps(log, 5, 8, 3.0)
    assert steps(path) == [(step, 1.0) for step in (1, 2, 3, 4)] + [(step, 3.0) for step in (5, 6, 7, 8)]
    kinds = [event["kind"] for event in read_events(path)]
    assert kinds.count("eval") == 0
    assert kinds.count("stopped") == 1
    assert kinds.count("resumed") == 1
    assert len(path.read_text().splitlines()) == 6 + 2 + 1 + 4


@pytest.mark.parametrize("torn", [b'{"time": "2026', b"\0" * 50, b"\0\0\n", b'{"time": 1}\n', b"[1]\n", b"null\n{"])
def test_a_torn_end_is_passed_over_and_cut_off(path: Path, torn: bytes) -> None:
    with EventLog(path) as log:
        write_steps(log, 1, 3, 1.0)
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    assert len(steps(path)) == 3
    EventLog(path).close()
    assert path.read_bytes() == whole


def test_a_broken_line_elsewhere_is_named(path: Path) -> None:
    with EventLog(path) as log:
        log.write("start")
    path.write_bytes(b"broken\n" + path.read_bytes())
    with pytest.raises(DataError, match=r"events\.jsonl:1: is not an event"):
        read_events(path)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), kills=st.integers(0, 5))
def test_runs_killed_at_any_byte_end_in_one_history(path: Path, data: st.DataObject, kills: int) -> None:
    """The reference: a list that is cut to the resume step by hand."""
    path.unlink(missing_ok=True)
    expected: list[tuple[int, float]] = []
    for attempt in range(kills + 1):
        done = data.draw(st.integers(0, len(expected)))
        with EventLog(path, resume_step=done if attempt else None) as log:
            before = path.stat().st_size
            last = data.draw(st.integers(done, done + 5))
            write_steps(log, done + 1 if attempt else 1, last, float(attempt))
        first = done + 1 if attempt else 1
        content = path.read_bytes()
        kept = data.draw(st.integers(before, len(content)))
        path.write_bytes(content[:kept])
        survived = content[before:kept].count(b"\n")
        expected = expected[: first - 1] + [(first + index, float(attempt)) for index in range(survived)]
        assert steps(path) == expected


def test_a_full_disk_leaves_no_torn_line(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    with EventLog(path) as log:
        log.write("start")
        whole = path.read_bytes()
        monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:5]))
        with pytest.raises(StorageError, match="No space left"):
            log.write("step", step=1)
    assert path.read_bytes() == whole


def test_a_missing_file_is_named(path: Path) -> None:
    with pytest.raises(StorageError, match=os.strerror(errno.ENOENT)):
        read_events(path)


HEX = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("login with hf_abcdefghijklmnopqrstuvwxyz01234567", "hf_abc"),
        ("key sk-proj-abc123def456ghi789jkl", "abc123"),
        ("sk-ant-api03-abcdefghijklmnop", "api03"),
        ("ghp_abcdefghijklmnopqrstuvwxyz0123456789", "abcdef"),
        ("AKIAIOSFODNN7EXAMPLE", "IOSF"),
        ("Authorization: Bearer abcdefghijklmnop.qrst", "abcdef"),
        ("https://me:pass@example.org/data.jsonl", "pass"),
        (f"WANDB_API_KEY={HEX}", HEX),
        (f"export WANDB_API_KEY='{HEX}'", HEX),
        (f'{{"wandb_key": "{HEX}"}}', HEX),
    ],
)
def test_secrets_are_masked(text: str, hidden: str) -> None:
    assert hidden not in redact(text)
    assert "[redacted]" in redact(text)
    assert redact(redact(text)) == redact(text)


@pytest.mark.parametrize(
    "text",
    [
        f"revision={HEX}",
        f"git {HEX}",
        "pad_token=<|endoftext|>",
        "max_tokens=512",
        "task-specific-tuning-of-2026-models",
        "sk-learn",
        "hf_trainer",
        "https://huggingface.co/org/model",
    ],
)
def test_harmless_texts_stay(text: str) -> None:
    assert redact(text) == text


def test_secrets_never_reach_the_file(path: Path) -> None:
    with EventLog(path) as log:
        log.write("start", env={"WANDB_API_KEY": HEX, "git": HEX}, arguments=["--token", "hf_" + "a1" * 17])
    assert path.read_text().count(HEX) == 1
    assert "hf_" not in path.read_text()
