"""On a GPU, a step's numbers are read during the next one: the same run, in which Python waits for no kernel."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ftune.report.events import read_events
from ftune.trainers import sft
from ftune.trainers.adamw_bf16 import AdamWBf16
from ftune.trainers.fed import Feeding
from ftune.trainers.numbers import reading
from ftune.trainers.sft import ReliableSFTTrainer
from tests.conftest import Done

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]

KINDS: dict[str, dict[str, Any]] = {
    "lora": {},
    "full": {"peft": {"type": "full"}},
    "bf16": {"peft": {"type": "full"}, "optim": {"optimizer": "adamw_bf16"}, "model": {"dtype": "bf16"}},
}


def steps_of(folder: Path) -> list[dict[str, Any]]:
    kept = ("step", "loss", "grad_norm", "token_accuracy", "tokens", "trained_tokens")
    events = read_events(folder / "events.jsonl")
    return [{name: event[name] for name in kept} for event in events if event["kind"] == "step"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_is_the_same_and_nothing_in_a_step_waits(
    recipe: Callable[..., Path],
    ftune: Callable[..., Done],
    tmp_path: Path,
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    sections = {name: dict(value) for name, value in KINDS[kind].items()}
    sections["model"] = {"path": str(tiny_model), **sections.get("model", {})}
    path = recipe(**sections, schedule={"max_steps": 8}, checkpoint={"every": "never"})
    feeding, watched = sft._feeding, list[int]()

    with monkeypatch.context() as patch:
        for name in ("training_step", "_clip_grad_norm", "_get_grad_norm", "get_batch_samples"):
            patch.setattr(ReliableSFTTrainer, name, _strict(getattr(ReliableSFTTrainer, name), watched))
        done = ftune("sft", path, "output_dir=late")
        assert done.code == 0, done.err
    assert "a step's numbers read during the next one" in done.err
    assert set(watched) == {2, 3, 4, 5}
    monkeypatch.setattr(sft, "_feeding", lambda *args: Feeding(feeding(*args).capacity))
    assert ftune("sft", path, "output_dir=at-once").code == 0
    late, at_once = steps_of(tmp_path / "late"), steps_of(tmp_path / "at-once")
    assert len(late) == len(at_once) == 8
    for one, other in zip(late, at_once, strict=True):  # kernels add up in another order each time
        assert one == {name: pytest.approx(value, rel=5e-3) for name, value in other.items()}


def _strict(honest: Callable[..., Any], watched: list[int]) -> Callable[..., Any]:
    """The same, in which anything that waits for the GPU is an error, in steps that have warmed up."""

    def strict(self: Any, *args: Any, **kwargs: Any) -> Any:
        step = self.state.global_step
        if not 2 <= step <= 5:
            return honest(self, *args, **kwargs)
        watched.append(step)
        torch.cuda.set_sync_debug_mode("error")
        try:
            return honest(self, *args, **kwargs)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    return strict


def test_numbers_are_read_when_they_are_there() -> None:
    torch.cuda._sleep(10**9)  # cycles: about half a second
    found = reading([torch.full((), 2.5, device="cuda"), 7, torch.tensor(0.5)])
    assert found.arrived is not None
    assert not found.arrived.query()
    assert found.result() == [2.5, 7.0, 0.5]


def test_a_compiled_step_with_found_inf_changes_nothing() -> None:
    weight = torch.nn.Parameter(torch.randn(64, 128, device="cuda").bfloat16())
    optimizer = AdamWBf16([weight], 0.1)
    history = []
    for broken in (0.0, 1.0, 0.0):
        weight.grad = torch.full_like(weight, torch.nan if broken else 1.0)
        optimizer.found_inf = torch.full((), broken, device="cuda")
        optimizer.step()
        if broken:
            optimizer.undo_count()
        history.append(weight.detach().clone())
    assert torch.equal(history[0], history[1])
    assert not torch.equal(history[1], history[2])
    assert history[2].isfinite().all()
    assert optimizer.state[weight]["step"] == 2
