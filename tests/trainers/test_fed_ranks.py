"""Two processes cut their rows of a step each for itself, and exchange gradients once: the run of one process."""

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file

from ftune.report.events import read_events
from tests.forked import Forked
from tests.trainers.fed_ranks import cut_anew


def test_ranks_with_other_numbers_of_passes_train_what_one_process_does(
    recipe: Callable[..., Path], tmp_path: Path
) -> None:
    path = recipe(
        batch={"micro_batch_size": 1, "global_batch_size": 8},
        schedule={"max_steps": 6},
        checkpoint={"every": "never"},
    )
    alone = Forked("sft", path, "output_dir=runs/alone", cwd=tmp_path, log="alone")
    assert alone.wait() == [0], alone.said()
    both = Forked("sft", path, "output_dir=runs/both", cwd=tmp_path, ranks=2, log="both", before=cut_anew)
    assert both.wait() == [0, 0], both.said()
    passes = [(tmp_path / f"passes.{rank}").read_text().splitlines() for rank in (0, 1)]
    assert [len(each) for each in passes] == [6, 6]
    assert {line[1:] for each in passes for line in each} == {" of 4"}
    assert passes[0] != passes[1]
    steps = {
        name: [event for event in read_events(tmp_path / "runs" / name / "events.jsonl") if event["kind"] == "step"]
        for name in ("alone", "both")
    }
    for one, other in zip(steps["alone"], steps["both"], strict=True):
        assert abs(one["loss"] - other["loss"]) < 1e-4 * one["loss"]
        assert abs(one["grad_norm"] - other["grad_norm"]) < 1e-3 * one["grad_norm"]
        assert [one[key] for key in ("tokens", "trained_tokens")] == [
            other[key] for key in ("tokens", "trained_tokens")
        ]
    weights = [load_file(tmp_path / "runs" / name / "adapter/adapter_model.safetensors") for name in ("alone", "both")]
    for key, value in weights[0].items():
        torch.testing.assert_close(weights[1][key], value, rtol=1e-3, atol=1e-5)
