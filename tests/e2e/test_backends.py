"""`ftune sft` and `ftune rm` as whole runs of two processes, on each kind of backend: the losses of one process."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ftune.report.events import read_events
from tests.conftest import chat_rows, write_rows
from tests.contract.adapters_to_fuse import adapters_to_fuse
from tests.forked import Forked
from tests.trainers.test_rm import pairs

ENDS_IN_S = 120.0
BACKENDS: dict[str, dict[str, Any]] = {
    "one": {"type": "single"},
    "ddp": {"type": "ddp"},
    "fsdp": {"type": "fsdp"},
    "zero": {"type": "zero", "stage": 3},
}
METHODS: dict[str, dict[str, Any]] = {"lora": {"type": "lora", "rank": 4}, "full": {"type": "full"}}
IN_PARTS = {"fsdp", "zero"}


def losses(run: Path) -> list[float]:
    events = read_events(run / "events.jsonl")
    return [event["loss"] for event in events if event["kind"] in ("step", "eval")]


@pytest.mark.parametrize("method", ["lora", pytest.param("full", marks=pytest.mark.slow)])
@pytest.mark.parametrize("command", [pytest.param("sft", marks=pytest.mark.slow), "rm"])
def test_two_processes_train_what_one_does(
    command: str, method: str, recipe: Callable[..., Path], tmp_path: Path
) -> None:
    write_rows(tmp_path / "judged.jsonl", pairs(24) if command == "rm" else chat_rows(24))
    found = {}
    for name, backend in BACKENDS.items():
        spread = {} if name == "one" else {"num_processes": 2, "device": "cpu"}
        path = recipe(
            f"{name}.yaml",
            type=command,
            data={"train": "judged.jsonl", "validation": 6, "max_length": 128},
            peft=METHODS[method],
            batch={"micro_batch_size": 1, "global_batch_size": 4},
            schedule={"max_steps": 3},
            checkpoint={"every": "never"},
            backend=backend | spread,
        )
        process = Forked(command, path, f"output_dir={name}", cwd=tmp_path, ranks=1 if name == "one" else 2)
        codes = process.wait(ENDS_IN_S)
        assert set(codes) == {0}, (name, process.said())
        found[name] = losses(tmp_path / name)
        (speed,) = [event for event in read_events(tmp_path / name / "events.jsonl") if event["kind"] == "speed"]
        assert speed["attention"]
        folds = method == "lora" and name not in IN_PARTS
        assert bool(speed["folded_lora"]) is folds
    assert len(found["one"]) == 4
    for name, values in found.items():
        assert values == pytest.approx(found["one"], rel=1e-4), name


SAVED: dict[str, dict[str, Any]] = {
    "prefix": {"type": "prefix", "virtual_tokens": 4},  # peft saves what its encoder gives
    "cartridge": {"type": "cartridge", "num_virtual_tokens": 4},  # a part of them frozen
    "adapter_fusion": {"type": "adapter_fusion", "adapters": adapters_to_fuse()},  # frozen, and saved
}


@pytest.mark.parametrize("method", SAVED)
@pytest.mark.parametrize("backend", sorted(IN_PARTS))
def test_what_a_method_saves_of_weights_in_parts_is_whole(
    method: str, backend: str, recipe: Callable[..., Path], tmp_path: Path
) -> None:
    spread = {"num_processes": 2, "device": "cpu"}
    schedule, checkpoint = {"max_steps": 2}, {"every": 1}
    path = recipe(peft=SAVED[method], schedule=schedule, checkpoint=checkpoint, backend=BACKENDS[backend] | spread)
    process = Forked("sft", path, "output_dir=run", cwd=tmp_path, ranks=2)
    assert set(process.wait(ENDS_IN_S)) == {0}, process.said()
    assert "ok: loaded again, the result computes what was trained" in process.said()
