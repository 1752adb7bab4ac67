"""`ftune sft` on a tiny real model: what it leaves, what it must not change, what it refuses."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ftune.report.events import read_events
from ftune.report.run_folder import read_state
from ftune.trainers.speed import NOT_FLAT
from tests.conftest import Done, chat_rows, write_rows

Run = Callable[..., Done]
Write = Callable[..., Path]


def losses(run: Path) -> list[float]:
    return [event["loss"] for event in read_events(run / "events.jsonl") if event["kind"] == "step"]


def weights(run: Path, name: str = "adapter") -> dict[str, torch.Tensor]:
    (file,) = (run / name).glob("*.safetensors")
    return load_file(file)


def same_bits(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_run_leaves_everything_a_person_and_a_library_need(
    recipe: Write, ftune: Run, tmp_path: Path, tiny_model: Path
) -> None:
    path = recipe(data={"train": "rows.jsonl", "validation": 4, "max_length": 128})
    done = ftune("sft", path)
    assert done.code == 0, done.err
    run = tmp_path / "runs" / "tiny"
    assert f"result: {Path('runs/tiny/adapter')}" in done.out
    pictures = ("curves.png", "report.html", "README.md")
    for name in ("recipe.yaml", "recipe.resolved.json", "environment.json", "data.json", *pictures):
        assert (run / name).stat().st_size > 0
    assert (run / "recipe.yaml").read_text() == path.read_text()
    assert json.loads((run / "data.json").read_text())["train"]["counts"]["kept"] == 20
    assert json.loads((run / "ftune.json").read_text())["state"] == "done"
    assert not list(run.rglob("training_args.bin"))
    events = read_events(run / "events.jsonl")
    assert {event["mfu"] for event in events if event["kind"] == "step"} == {None}  # of a CPU nobody knows the peak
    kinds = [event["kind"] for event in events]
    assert kinds[:2] == ["start", "data"]
    assert kinds[-1] == "end"
    assert {"step", "eval", "checkpoint"} <= set(kinds)


def test_the_result_loads_in_plain_peft_with_the_update_that_was_trained(
    recipe: Write, ftune: Run, tmp_path: Path, tiny_model: Path
) -> None:
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert ftune("sft", recipe(peft={"type": "lora", "rank": 4, "target_modules": ["q_proj"]})).code == 0
    folder = tmp_path / "runs/tiny/adapter"
    tuned = AutoPeftModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.chat_template == AutoTokenizer.from_pretrained(tiny_model).chat_template
    by_hand = AutoModelForCausalLM.from_pretrained(tiny_model)
    update = load_file(folder / "adapter_model.safetensors")
    for number, layer in enumerate(by_hand.model.layers):
        prefix = f"base_model.model.model.layers.{number}.self_attn.q_proj"
        b, a = update[f"{prefix}.lora_B.weight"], update[f"{prefix}.lora_A.weight"]
        layer.self_attn.q_proj.weight.data += (32.0 / 4) * b @ a
    ids = torch.tensor([tokenizer("the cat sat").input_ids])
    with torch.no_grad():
        assert torch.allclose(tuned(ids).logits, by_hand(ids).logits, atol=1e-5)


def test_full_fine_tuning_lowers_the_loss_and_leaves_a_plain_transformers_model(
    recipe: Write, ftune: Run, tmp_path: Path, tiny_model: Path
) -> None:
    from transformers import AutoModelForCausalLM

    path = recipe(peft="full", optim={"learning_rate": 0.02}, schedule={"max_steps": 40}, checkpoint={"every": "never"})
    assert ftune("sft", path).code == 0
    assert sum(losses(tmp_path / "runs/tiny")[-5:]) < 0.8 * sum(losses(tmp_path / "runs/tiny")[:5])
    before = AutoModelForCausalLM.from_pretrained(tiny_model)
    after = AutoModelForCausalLM.from_pretrained(tmp_path / "runs/tiny/model")
    assert after.num_parameters() == before.num_parameters()
    moved = [not torch.equal(a, b) for a, b in zip(after.parameters(), before.parameters(), strict=True)]
    assert all(moved)


def first_loss(ftune: Run, tmp_path: Path, path: Path, *overrides: str) -> float:
    done = ftune("sft", path, "output_dir=runs/x", "schedule.max_steps=1", *overrides, "--overwrite")
    assert done.code == 0, done.err
    return losses(tmp_path / "runs/x")[0]


def test_packed_rows_have_the_loss_of_the_same_rows_alone(recipe: Write, ftune: Run, tmp_path: Path) -> None:
    path = recipe(batch={"micro_batch_size": 24}, backend={"type": "single", "device": "cpu"})
    alone = first_loss(ftune, tmp_path, path)
    packed = first_loss(ftune, tmp_path, path, "data.packing=true", "data.max_length=4096")
    halves = first_loss(ftune, tmp_path, path, "data.packing=true", "data.max_length=400")
    assert packed == pytest.approx(alone, rel=1e-5)
    assert halves == pytest.approx(alone, rel=1e-5)


@pytest.mark.parametrize("packing", [False, True])
def test_each_step_has_the_loss_of_the_plain_way(recipe: Write, ftune: Run, tmp_path: Path, packing: bool) -> None:
    data = {"train": "rows.jsonl", "validation": 4, "max_length": 300, "packing": packing}
    batch = {"micro_batch_size": 2, "gradient_accumulation_steps": 2}
    path = recipe(data=data, batch=batch, schedule={"max_steps": 4}, checkpoint={"every": "never"})
    runs = {"fast": "speed={}", "plain": "speed={packed_attention: off, fused_loss: off, folded_lora: off}"}
    told = {name: ftune("sft", path, value, f"output_dir=runs/{name}") for name, value in runs.items()}
    assert [done.code for done in told.values()] == [0, 0]
    assert (
        "speed: no padding (attention: each row by itself), no logits but of trained tokens, adapters folded into "
        in told["fast"].err
    )
    assert "speed:" not in told["plain"].err
    fast, plain = (
        [event for event in read_events(tmp_path / "runs" / name / "events.jsonl") if event["kind"] in ("step", "eval")]
        for name in runs
    )
    assert sum(event["kind"] == "step" for event in fast) == 4
    for one, other in zip(fast, plain, strict=True):
        same = [name for name in ("loss", "grad_norm", "tokens", "trained_tokens", "perplexity") if name in one]
        assert [one[name] for name in same] == pytest.approx([other[name] for name in same], rel=1e-5)
        assert one["token_accuracy"] == pytest.approx(
            other["token_accuracy"], abs=0.1
        )  # TRL's mean weighs batches alike


def test_accumulation_is_weighted_by_tokens(recipe: Write, ftune: Run, tmp_path: Path) -> None:
    path = recipe(checkpoint={"every": "never"}, schedule={"max_steps": 3}, backend={"type": "single", "device": "cpu"})
    whole = ["batch={micro_batch_size: 8}", "output_dir=runs/whole", "speed.fused_loss=off"]
    parts = ["batch={micro_batch_size: 1, global_batch_size: 8}", "output_dir=runs/parts", "speed.packed_attention=off"]
    assert ftune("sft", path, *whole).code == 0
    assert ftune("sft", path, *parts).code == 0
    on = [
        {key: event[key] for key in ("attention", "fused_loss", "off")}
        for name in ("whole", "parts")
        for event in read_events(tmp_path / "runs" / name / "events.jsonl")
        if event["kind"] == "speed"
    ]
    assert on == [
        {"attention": "ftune_rows", "fused_loss": False, "off": {"folded_lora": NOT_FLAT}},
        {"attention": None, "fused_loss": True, "off": {"folded_lora": NOT_FLAT}},
    ]
    assert losses(tmp_path / "runs/parts") == pytest.approx(losses(tmp_path / "runs/whole"), rel=1e-5)


def test_resume_is_bit_for_bit_the_run_that_never_stopped(recipe: Write, ftune: Run, tmp_path: Path) -> None:
    path = recipe(peft={"type": "lora", "rank": 4, "dropout": 0.2}, data={"train": "rows.jsonl", "validation": 4})
    assert ftune("sft", path).code == 0
    run = tmp_path / "runs/tiny"
    whole, history = weights(run), losses(run)
    shutil.rmtree(run / "adapter")
    shutil.rmtree(run / "checkpoint-6")
    (run / "ftune.json").write_text('{"state": "running"}')
    torch.manual_seed(12345)
    done = ftune("sft", path, "--resume")
    assert done.code == 0, done.err
    assert same_bits(weights(run), whole)
    assert losses(run) == history


def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_is_used(
    recipe: Write, ftune: Run, tmp_path: Path
) -> None:
    path = recipe()
    assert ftune("sft", path).code == 0
    run = tmp_path / "runs/tiny"
    whole = weights(run)
    shutil.rmtree(run / "adapter")
    (run / "ftune.json").write_text('{"state": "running"}')
    damaged = run / "checkpoint-6" / "adapter_model.safetensors"
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    done = ftune("sft", path, "--resume")
    assert done.code == 0
    assert "damaged checkpoint kept as runs/tiny/checkpoint-6.damaged" in done.err
    assert same_bits(weights(run), whole)


def test_a_run_killed_after_its_last_step_only_writes_its_result(recipe: Write, ftune: Run, tmp_path: Path) -> None:
    path = recipe()
    assert ftune("sft", path).code == 0
    run = tmp_path / "runs/tiny"
    whole = weights(run)
    shutil.rmtree(run / "adapter")
    (run / "ftune.json").write_text('{"state": "running"}')
    assert ftune("sft", path, "--resume").code == 0
    assert same_bits(weights(run), whole)
    assert sorted(folder.name for folder in run.glob("checkpoint-*")) == ["checkpoint-4", "checkpoint-6"]


CONSTANT = {"type": "constant", "warmup": 0.0}


def test_a_finished_run_goes_on_for_longer_as_if_it_had_never_ended(recipe: Write, ftune: Run, tmp_path: Path) -> None:
    path, run = recipe(schedule={"max_steps": 4, **CONSTANT}), tmp_path / "runs/tiny"
    assert ftune("sft", path, "schedule.max_steps=6", "output_dir=runs/whole").code == 0
    assert ftune("sft", path).code == 0
    for name in ("eval", "merged", "merged-nf4", "merged-nf4.before", "gguf"):
        (run / name).mkdir()
    again = ftune("sft", path, "--resume", "schedule.max_steps=3")
    assert "runs/tiny is finished, nothing to do" in again.out
    assert "resumed" not in again.err
    longer = ftune("sft", path, "--resume", "schedule.max_steps=6")
    assert longer.code == 0, longer.err
    assert longer.err.startswith("runs/tiny was finished and goes on for longer\nresumed from step 4\n")
    assert same_bits(weights(run), weights(tmp_path / "runs/whole"))
    assert losses(run) == losses(tmp_path / "runs/whole")
    assert read_state(run) == "done"
    assert not any((run / name).exists() for name in ("eval", "merged", "merged-nf4", "gguf"))
    kept = ["eval.before", "gguf.before", "merged-nf4.before", "merged-nf4.before-2", "merged.before"]
    assert sorted(folder.name for folder in run.glob("*.before*")) == kept
    merge = (
        "runs/tiny/merged is of the result before and is called merged.before now; of this one: ftune merge runs/tiny"
    )
    assert merge in longer.err
    assert "of this one: ftune eval runs/tiny" in longer.err
    assert "is finished, nothing to do" in ftune("sft", path, "--resume", "schedule.max_steps=6").out


def test_a_finished_run_that_cannot_go_on_stays_finished(recipe: Write, ftune: Run, tmp_path: Path) -> None:
    path, run = recipe(schedule={"max_steps": 4, **CONSTANT}), tmp_path / "runs/tiny"
    assert ftune("sft", path).code == 0
    before, recorded = weights(run), (run / "recipe.resolved.json").read_text()
    rows = (tmp_path / "rows.jsonl").read_text()
    write_rows(tmp_path / "rows.jsonl", chat_rows(24, start=3))
    refused = ftune("sft", path, "--resume", "schedule.max_steps=6")
    assert refused.code == 2
    assert "the training rows are not those of the checkpoint" in refused.err
    (tmp_path / "rows.jsonl").write_text(rows)
    for checkpoint in run.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    for words in ([], ["--dry-run"]):
        refused = ftune("sft", path, "--resume", "schedule.max_steps=6", *words)
        assert refused.code == 2
        assert "runs/tiny: the run is finished and holds no whole checkpoint, so it cannot go on" in refused.err
        assert "ftune merge runs/tiny, then model.path=runs/tiny/merged output_dir=..." in refused.err
    assert read_state(run) == "done"
    assert (run / "recipe.resolved.json").read_text() == recorded
    assert same_bits(weights(run), before)


def test_a_folder_is_never_overwritten_by_accident(recipe: Write, ftune: Run, tmp_path: Path) -> None:
    path = recipe(schedule={"max_steps": 2})
    assert ftune("sft", path).code == 0
    again = ftune("sft", path)
    assert again.code == 2
    assert "holds a finished run; use --overwrite" in again.err
    assert "is finished, nothing to do" in ftune("sft", path, "--resume").out
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years of work")
    for option in ("--overwrite", "--resume"):
        refused = ftune("sft", path, "output_dir=mine", option)
        assert refused.code == 2
        assert "holds no run of ftune; choose another folder" in refused.err
    assert (tmp_path / "mine/thesis.txt").read_text() == "years of work"
    (tmp_path / "file").write_text("x")
    assert "is a file; give a folder" in ftune("sft", path, "output_dir=file").err


def test_resume_refuses_another_recipe_and_other_rows(recipe: Write, ftune: Run, tmp_path: Path) -> None:
    path = recipe()
    assert ftune("sft", path).code == 0
    (tmp_path / "runs/tiny/ftune.json").write_text('{"state": "running"}')
    refused = ftune("sft", path, "--resume", "optim.learning_rate=1e-3")
    assert refused.code == 2
    assert "optim.learning_rate: was 0.005, is 0.001" in refused.err
    write_rows(tmp_path / "rows.jsonl", chat_rows(24, start=3))
    refused = ftune("sft", path, "--resume")
    assert refused.code == 2
    assert "the training rows are not those of the checkpoint" in refused.err


def test_a_step_that_is_not_finite_is_skipped_and_its_rows_are_written_down(
    recipe: Write, ftune: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ftune.trainers.sft import ReliableSFTTrainer

    honest = ReliableSFTTrainer.compute_loss

    def faulty(self: Any, *args: Any, **kwargs: Any) -> Any:
        loss = honest(self, *args, **kwargs)
        return loss * math.nan if self.state.global_step == 2 else loss

    monkeypatch.setattr(ReliableSFTTrainer, "compute_loss", faulty)
    done = ftune("sft", recipe())
    assert done.code == 0
    assert "step 3 skipped: loss nan" in done.err
    run = tmp_path / "runs/tiny"
    (skipped,) = [event for event in read_events(run / "events.jsonl") if event["kind"] == "skipped"]
    assert skipped["step"] == 3
    assert len(skipped["rows"]) == 2
    assert all(row.startswith("rows.jsonl:") or "/rows.jsonl:" in row for row in skipped["rows"])
    assert all(math.isfinite(loss) for loss in losses(run))
    assert len(losses(run)) == 5
    assert all(bool(tensor.isfinite().all()) for tensor in weights(run).values())


def test_three_such_steps_in_a_row_end_the_run_with_the_last_good_checkpoint(
    recipe: Write, ftune: Run, tmp_path: Path
) -> None:
    done = ftune("sft", recipe(peft="full", optim={"learning_rate": 1e30}, checkpoint={"every": 1}))
    assert done.code == 70
    assert "3 steps in a row were not finite" in done.err
    run = tmp_path / "runs/tiny"
    assert json.loads((run / "ftune.json").read_text())["state"] == "diverged"
    assert not (run / "model").exists()
    for folder in run.glob("checkpoint-*"):
        for tensor in load_file(folder / "model-00001.safetensors").values():
            assert bool(tensor.isfinite().all())


def test_validation_loss_does_not_depend_on_the_batch_size(recipe: Write, ftune: Run, tmp_path: Path) -> None:
    path = recipe(data={"train": "rows.jsonl", "validation": 7}, schedule={"max_steps": 1}, eval={"every": 1})
    found = []
    for size in (1, 3, 7):
        assert ftune("sft", path, f"eval.micro_batch_size={size}", "--overwrite").code == 0
        events = read_events(tmp_path / "runs/tiny/events.jsonl")
        found.append(next(event["loss"] for event in events if event["kind"] == "eval"))
    assert found[1:] == pytest.approx([found[0]] * 2, rel=1e-6)


def test_packing_probe_catches_a_model_that_sees_across_rows(tiny_model: Path) -> None:
    from transformers import AutoModelForCausalLM

    from ftune.core.errors import ModelError
    from ftune.trainers.probe import probe_packing

    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    rows = [[5, 6, 7, 8, 9, 10], [20, 21, 22, 23]]
    assert probe_packing(model, rows) < 1e-4
    honest = model.forward

    def leaky(*args: Any, position_ids: torch.Tensor, **kwargs: Any) -> Any:
        return honest(*args, position_ids=torch.arange(position_ids.shape[1])[None], **kwargs)

    model.forward = leaky
    with pytest.raises(ModelError, match="packed rows see each other"):
        probe_packing(model, rows)
