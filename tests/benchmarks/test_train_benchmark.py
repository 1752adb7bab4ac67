"""The benchmark of training: its loop tuned by hand computes what it should, and all ways are measured."""

import json
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "scripts" / "benchmarks"


@pytest.fixture
def batch(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Rows in a flat batch; the benchmark's parts can be imported."""
    monkeypatch.syspath_prepend(str(FOLDER))
    from ftune.speed.flat import FlatCollator
    from ftune.speed.loss import add_places

    generator = torch.Generator().manual_seed(0)
    rows = [torch.randint(4, 512, (length,), generator=generator).tolist() for length in (9, 3, 14)]
    return add_places(FlatCollator(16)([{"input_ids": row, "labels": row} for row in rows]))


def net(full: bool) -> Any:
    from train_parts.tuned_net import Net
    from train_parts.work import MODELS

    return Net(MODELS["tiny"], full=full, device="cpu", compiled=False)


def test_the_loop_tuned_by_hand_is_a_llama(batch: dict[str, Any]) -> None:
    from train_parts.work import MODELS
    from transformers import LlamaConfig, LlamaForCausalLM

    tuned, size = net(full=True), MODELS["tiny"]
    config = LlamaConfig(**size, rms_norm_eps=1e-5, rope_parameters={"rope_type": "default", "rope_theta": 500_000.0})
    plain = LlamaForCausalLM(config)
    with torch.no_grad():
        plain.model.embed_tokens.weight.copy_(tuned.embed)
        for layer, block in zip(plain.model.layers, tuned.blocks, strict=True):
            query, key, value = block.qkv.weight.split([count * size["head_dim"] for count in block.heads])
            gate, up = block.gate_up.weight.chunk(2)
            attention, wide = layer.self_attn, layer.mlp
            pairs = {attention.q_proj: query, attention.k_proj: key, attention.v_proj: value, wide.gate_proj: gate}
            for linear, weight in (pairs | {wide.up_proj: up}).items():
                linear.weight.copy_(weight)
            attention.o_proj.weight.copy_(block.out.weight)
            wide.down_proj.weight.copy_(block.down.weight)
    inputs = {name: batch[name] for name in ("input_ids", "position_ids", "labels")}
    expected = plain(**inputs, use_cache=False).loss * len(batch["loss_places"])
    for checkpointing in (False, True):
        torch.testing.assert_close(tuned(batch, 16, checkpointing=checkpointing).loss, expected)


def test_folded_adapters_have_the_gradients_of_adapters(batch: dict[str, Any]) -> None:
    from train_parts.work import ALPHA, RANK

    folded, dense = net(full=False), net(full=True)
    scale = ALPHA / RANK
    with torch.no_grad():
        dense.embed.copy_(folded.embed)
        for ours, theirs in zip(folded.blocks, dense.blocks, strict=True):
            for name in ("qkv", "out", "gate_up", "down"):
                stack = getattr(ours, name)
                stack.b.normal_(0, 0.05).mul_(stack.mask)
                getattr(theirs, name).weight.copy_(stack.weight[:, : stack.inputs] + scale * stack.b @ stack.a)
    folded.fold()
    losses = [one(batch, 16, checkpointing=False).loss for one in (folded, dense)]
    torch.testing.assert_close(*losses)
    for loss in losses:
        loss.backward()
    for ours, theirs in zip(folded.blocks, dense.blocks, strict=True):
        for name in ("qkv", "out", "gate_up", "down"):
            stack, by_weight = getattr(ours, name), getattr(theirs, name).weight.grad
            torch.testing.assert_close(stack.a.grad, scale * stack.b.T @ by_weight, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(stack.b.grad, scale * (by_weight @ stack.a.T) * stack.mask, rtol=1e-4, atol=1e-4)


def test_the_table_has_a_line_for_each_way_and_ratios_for_ftune(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    table = runpy.run_path(str(FOLDER / "train_parts/table.py"))
    trl = {"setting": "s", "way": "TRL", "device": "CPU, 2", "tokens_per_s": 10.0, "tokens_per_cpu_s": 5.0}
    trl |= {"peak_gib": 2.0, "first_step_s": 3.0, "losses": [1.5]}
    ours = [trl | {"way": "ftune", "tokens_per_s": rate, "tokens_per_cpu_s": 10.0} for rate in (19.0, 20.0, 50.0)]
    failed = {"setting": "s", "way": "loop", "error": "no | such"}
    assert table["markdown"]([trl, *ours, failed]).splitlines()[2:] == [
        "| s | TRL | 10 | 2.0 | 3.0 s | 1.5 |",
        "| s | ftune | 20 | 2.0 | 3.0 s | 1.5 |",
        "| s | loop | no / such | | | |",
    ]
    assert table["ratios"]([trl, *ours, failed]) == "s: ftune is 2.00 x as fast as TRL (2.00 x by processor time)"


def test_fp8_is_measured_where_it_is_asked_for_and_all_parameters_train(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    script = runpy.run_path(str(FOLDER / "train.py"))
    fp8 = [way for way in script["WHOLE"] if "fp8" in way]
    assert not set(fp8) & set(script["WAYS"])
    jobs = script["gpu_jobs"](script["TINY"][:2], ["ftune, packed", *fp8], tmp_path, 2)
    assert [(job.setting.full, job.way) for job in jobs] == [
        (False, "ftune, packed"),
        *((True, way) for way in ("ftune, packed", *fp8)),
    ]


def test_tokens_are_those_of_the_step_that_computes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    from types import SimpleNamespace

    from train_parts.clock import Clock, Made
    from train_parts.work import Job, Setting

    clock = Clock(Job("ftune", Setting("tiny", "tiny"), "", 3, 1, 64, 4))
    trainer = SimpleNamespace(training_step=lambda tokens: tokens)
    made, sizes = Made(trainer, clock), [10, 20, 30, 40, 50, 60]
    for tokens in sizes[:3]:  # three micro-batches are there before the first step of two
        made.saw(tokens)
    for step in range(3):
        for tokens in sizes[2 * step + 3 : 2 * step + 5]:
            made.saw(tokens)
        assert [trainer.training_step(2 * step), trainer.training_step(2 * step + 1)] == [2 * step, 2 * step + 1]
        clock.step()
    assert clock.tokens == [30, 70, 110]


@pytest.mark.slow
def test_all_ways_are_measured_in_the_try_out_size(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    words = ["--tiny", "--steps", "4", "--only", "tiny LoRA", "--folder", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["train.py", *words])
    runpy.run_path(str(FOLDER / "train.py"), run_name="__main__")
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert len(found) == 5
    assert all(line["tokens_per_s"] > 0 for line in found)


def test_packages_of_unsloth_are_for_its_process_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    program = runpy.run_path(str(FOLDER / "train.py"))
    from train_parts.processes import finish, start
    from train_parts.work import UNSLOTH

    packages = tmp_path / "packages"
    (packages / "unsloth").mkdir(parents=True)
    (packages / "unsloth" / "__init__.py").write_text("raise ImportError('no GPU for Unsloth')")
    ways = ["ftune", UNSLOTH]
    jobs = list(program["gpu_jobs"](program["TINY"][:1], ways, tmp_path, 2, str(packages)))
    assert [job.packages for job in jobs] == ["", str(packages)]
    result = finish(jobs[1], start(jobs[1]), 60.0)
    assert result == {"setting": "tiny LoRA", "way": UNSLOTH, "error": "ImportError: no GPU for Unsloth"}
