"""Every file of a real checkpoint, damaged in every way: it is named, and the one before is used instead."""

import json
import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from ftune.core.checkpoints import MANIFEST, commit, newest_valid, stage, verify
from ftune.report.events import read_events
from tests.conftest import chat_rows, write_rows
from tests.e2e.test_kills import digest
from tests.forked import Forked

Damage = Callable[[Path, Path], object]
"""Damages a file; the second is the same one of the checkpoint before."""


def flipped(place: float) -> Damage:
    """One bit of the byte so far into the file."""

    def damage(file: Path, _: Path) -> None:
        content = bytearray(file.read_bytes())
        content[int(place * (len(content) - 1))] ^= 0x04
        file.write_bytes(content)

    return damage


def cut(file: Path, length: int) -> None:
    os.truncate(file, length)


def zeros(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2] + bytes(len(content) - len(content) // 2))


DAMAGE: dict[str, Damage] = {
    "missing": lambda file, _: file.unlink(),
    "one byte less": lambda file, _: cut(file, file.stat().st_size - 1),
    "half": lambda file, _: cut(file, file.stat().st_size // 2),
    "empty": lambda file, _: cut(file, 0),
    "longer by a zero": lambda file, _: file.write_bytes(file.read_bytes() + b"\0"),
    "zeros at the end": lambda file, _: zeros(file),
    "first bit": flipped(0.0),
    "bit at a third": flipped(1 / 3),
    "bit in the middle": flipped(0.5),
    "last bit": flipped(1.0),
    "that of the step before": lambda file, before: shutil.copy(before, file),
    "a folder": lambda file, _: (file.unlink(), file.mkdir()),
    "a link": lambda file, before: (file.unlink(), file.symlink_to(before)),
}

ADDED = ["optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state_7.pth", "pytorch_model.bin", "state/more.safetensors"]


class Payload:
    """What a pickle can hold: code that runs when it is loaded."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return os.mkdir, (str(self.trace),)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """The folder of a run of two processes with the checkpoints of steps 2 and 4; its recipe lies beside it."""
    folder = tmp_path_factory.mktemp("saved")
    write_rows(folder / "rows.jsonl", chat_rows(24))
    recipe = {
        "type": "sft",
        "model": {"path": str(tiny_model)},
        "data": {"train": "rows.jsonl", "max_length": 128},
        "peft": {"type": "lora", "rank": 4, "dropout": 0.1},
        "schedule": {"max_steps": 4},
        "batch": {"micro_batch_size": 2},
        "checkpoint": {"every": 2},
        "backend": {"type": "ddp", "num_processes": 2, "device": "cpu"},
    }
    (folder / "tiny.yaml").write_text(yaml.safe_dump(recipe))
    run = Forked("sft", "tiny.yaml", "output_dir=run", cwd=folder, ranks=2)
    assert set(run.wait()) == {0}, run.said()
    return folder / "run"


def files_of(checkpoint: Path) -> list[str]:
    return sorted(path.relative_to(checkpoint).as_posix() for path in checkpoint.rglob("*") if path.is_file())


def copies(saved: Path, folder: Path) -> Iterator[tuple[Path, str]]:
    """A fresh copy of the run for each file of its newest checkpoint."""
    for number, name in enumerate(files_of(saved / "checkpoint-4")):
        run = folder / str(number)
        for step in (2, 4):
            shutil.copytree(saved / f"checkpoint-{step}", run / f"checkpoint-{step}")
        yield run, name
        shutil.rmtree(run)


def set_aside(run: Path, name: str) -> None:
    """The newest checkpoint is passed over with its damaged file's name, and kept."""
    found = newest_valid(run)
    assert (found.path, found.step) == (run / "checkpoint-2", 2)
    [(kept, problems)] = found.damaged
    assert kept == run / "checkpoint-4.damaged"
    assert name in " ".join(problems)
    assert newest_valid(run).damaged == []


@pytest.mark.slow
def test_a_checkpoint_of_two_processes_has_the_parts_of_both(saved: Path) -> None:
    names = files_of(saved / "checkpoint-4")
    assert {"rng_state_0.pth", "rng_state_1.pth", "state/state.json", "trainer_state.json", MANIFEST} <= {*names}
    assert {name for name in names if name.startswith("state/tensors-")} >= {
        "state/tensors-00001.safetensors",
        "state/tensors-00002.safetensors",
    }
    assert {Path(name).suffix for name in names} <= {".json", ".jinja", ".md", ".pth", ".safetensors"}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_to_any_file_is_named(saved: Path, tmp_path: Path, kind: str) -> None:
    tried = 0
    for run, name in copies(saved, tmp_path):
        file, before = run / "checkpoint-4" / name, run / "checkpoint-2" / name
        whole = file.read_bytes()
        DAMAGE[kind](file, before)
        if file.is_file() and not file.is_symlink() and file.read_bytes() == whole:
            continue  # the same at both steps, or it ends in zeros
        tried += 1
        other = name == MANIFEST and kind in {"that of the step before", "a link"}
        set_aside(run, "holds step 2" if other else name)
    assert tried >= 5


@pytest.mark.parametrize("name", ADDED)
def test_an_added_file_that_a_loader_could_take_is_named(saved: Path, tmp_path: Path, name: str) -> None:
    run, _ = next(copies(saved, tmp_path))
    (run / "checkpoint-4" / name).write_bytes(b"added")
    set_aside(run, name)


def test_two_files_that_changed_places_are_named(saved: Path, tmp_path: Path) -> None:
    run, _ = next(copies(saved, tmp_path))
    one, other = (run / "checkpoint-4" / f"rng_state_{rank}.pth" for rank in (0, 1))
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)
    set_aside(run, "rng_state_1.pth")


def begin_again(saved: Path, folder: Path) -> Path:
    """A copy of the run as if it had been killed before its end."""
    shutil.copytree(saved.parent, folder)
    run = folder / "run"
    shutil.rmtree(run / "adapter")
    (run / "ftune.json").write_text(json.dumps({"state": "running"}))
    return run


def test_a_run_goes_on_from_the_one_before_and_runs_no_code_of_a_checkpoint(saved: Path, tmp_path: Path) -> None:
    """First a payload that the manifest gives away; then one in a checkpoint that someone made to fit."""
    run, trace = begin_again(saved, tmp_path / "copy"), tmp_path / "trace"
    payload = pickle.dumps(Payload(trace))
    for rank in (0, 1):
        (run / "checkpoint-4" / f"rng_state_{rank}.pth").write_bytes(payload)
    resumed = Forked("sft", "tiny.yaml", "output_dir=run", "--resume", cwd=run.parent, ranks=2)
    assert set(resumed.wait()) == {0}, resumed.said()
    assert "resumed from step 2" in resumed.said()
    assert "damaged checkpoint kept as run/checkpoint-4.damaged: rng_state_0.pth" in resumed.said()
    assert digest(run) == digest(saved)
    steps = [event["step"] for event in read_events(run / "events.jsonl") if event["kind"] == "step"]
    assert steps == [1, 2, 3, 4]

    forged = begin_again(saved, tmp_path / "forged")
    shutil.rmtree(forged / "checkpoint-4")
    manifest = json.loads((forged / "checkpoint-2" / MANIFEST).read_text())
    facts = {key: value for key, value in manifest.items() if key not in {"format", "files", "seal"}}
    staging = stage(forged, 2)
    shutil.copytree(forged / "checkpoint-2", staging, dirs_exist_ok=True)
    for rank in (0, 1):
        (staging / f"rng_state_{rank}.pth").write_bytes(payload)
    commit(staging, forged / "checkpoint-2", facts)
    assert verify(forged / "checkpoint-2") == []
    refused = Forked("sft", "tiny.yaml", "output_dir=run", "--resume", cwd=forged.parent, ranks=2)
    assert set(refused.wait()) == {2}, refused.said()
    assert "rng_state_0.pth" in refused.said()
    assert not trace.exists()
