"""On a GPU, rows that are scored end to end have in 16 bit the scores and gradients of padded ones, as exactly."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, TaskType, get_peft_model
from transformers import AutoModelForSequenceClassification, LlamaConfig

from ftune.report.events import read_events
from ftune.trainers.head import put_head
from ftune.trainers.judged import EndToEnd, Padding, PairCollator
from ftune.trainers.pairwise import pair_losses
from ftune.trainers.scoring import logits_of
from ftune.trainers.speed import at_speed
from ftune.trainers.speed_tasks import SCORES
from tests.conftest import Done, write_rows
from tests.trainers.test_rm import pairs
from tests.trainers.test_speed_gpu import LENGTHS, SIZE, checkpointed, off, rows_of

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]


def model_of(*, full: bool, dtype: torch.dtype) -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(**SIZE, pad_token_id=0, num_labels=1)
    model = AutoModelForSequenceClassification.from_config(config).to("cuda", dtype)
    put_head(model, new=True, seed=1)
    if full:
        return model
    lora = LoraConfig(r=16, target_modules="all-linear", init_lora_weights=False, task_type=TaskType.SEQ_CLS)
    wrapped = get_peft_model(model, lora)
    for parameter in wrapped.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return wrapped


def measured(model: Any, lengths: tuple[int, ...], laid: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Scores, and gradients of a loss of pairs: each row against the next one."""
    model.zero_grad(set_to_none=True)
    answers = rows_of(lengths)
    places = list(range(len(answers)))
    example = {
        "input_ids": [token for answer in answers for token in answer],
        "lengths": list(lengths),
        "better": places[:-1],
        "worse": places[1:],
        "margins": [0.0] * (len(answers) - 1),
    }
    batch = PairCollator(laid, with_margins=False)([example])
    batch = {name: value.cuda() if torch.is_tensor(value) else value for name, value in batch.items()}
    with torch.autocast("cuda", torch.bfloat16, enabled=model.dtype != torch.float32):
        scores = logits_of(model, batch).squeeze(-1)
    losses = pair_losses(scores[batch["better"]], scores[batch["worse"]], batch["margins"])
    losses.sum().backward()
    return scores.detach(), {name: one.grad.float() for name, one in model.named_parameters() if one.grad is not None}


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("checkpointing", [False, "selective", True])
def test_as_exact_as_padded_rows(full: bool, checkpointing: bool | str) -> None:
    exact = [measured(model_of(full=full, dtype=torch.float32), lengths, Padding(0)) for lengths in LENGTHS]
    model = model_of(full=full, dtype=torch.bfloat16)
    usual = [measured(model, lengths, Padding(0)) for lengths in LENGTHS]
    with checkpointed(model, checkpointing, task=SCORES) as speed:
        assert (speed.compiled_layers, bool(speed.attention), speed.reasons) == (True, True, {})
        assert speed.folded_lora == (0 if full else 12)
        model.train()
        flat = [measured(model, lengths, EndToEnd(longest=700, rounded=True)) for lengths in LENGTHS]
    for (_, ours), (_, slopes), (_, rounded) in zip(flat, exact, usual, strict=True):
        assert off(ours, slopes) <= 1.5 * off(rounded, slopes) + 0.01
    # few numbers: one of them may be right by chance
    found, scores, near = (torch.cat([scores for scores, _ in way]) for way in (flat, exact, usual))
    assert (found - scores).norm() <= 2 * (near - scores).norm() + 0.02 * (scores - scores.mean()).norm()


def test_nothing_of_the_model_is_left_changed() -> None:
    model = model_of(full=False, dtype=torch.bfloat16)
    before, _ = measured(model, LENGTHS[0], Padding(0))
    with at_speed(model, rows_of(LENGTHS[0]), torch.bfloat16, longest=700, task=SCORES):
        pass
    after, _ = measured(model, LENGTHS[0], Padding(0))
    torch.testing.assert_close(after, before, rtol=0.02, atol=0.02 * float(before.abs().max()))  # other kernels, maybe


def test_a_run_learns_the_same(
    recipe: Callable[..., Path], ftune: Callable[..., Done], tmp_path: Path, tiny_model: Path
) -> None:
    write_rows(tmp_path / "pairs.jsonl", pairs(24))
    path = recipe(
        type="rm",
        model={"path": str(tiny_model)},
        data={"train": "pairs.jsonl", "validation": 6, "max_length": 128},
        schedule={"max_steps": 8},
        checkpoint={"every": "never"},
    )
    told = {}
    slow = ("speed.packed_attention=off", "speed.folded_lora=off")
    for name, words in {"fast": ("speed.compiled_layers=on",), "plain": slow}.items():
        done = ftune("rm", path, f"output_dir={name}", *words)
        assert done.code == 0, done.err
        events = read_events(tmp_path / name / "events.jsonl")
        told[name] = [event for event in events if event["kind"] in ("step", "eval")]
        (speed,) = [event for event in events if event["kind"] == "speed"]
        assert (speed["attention"], speed["compiled_layers"]) == (
            ("ftune_varlen", True) if name == "fast" else (None, False)
        )
    assert "a step's numbers read during the next one" in done.err
    for one, other in zip(told["fast"], told["plain"], strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=0.02)
        assert one.get("answers") == other.get("answers")
