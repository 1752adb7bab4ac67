"""AdaLoRA's allocator really acts: on the run's own schedule, down to the budget."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ftune.core.errors import RecipeError
from ftune.peft.adalora import AdaLora
from tests.conftest import Done

IDS = torch.tensor([[5, 9, 13, 21, 34, 55, 89, 144]])
LAYERS = 14


def wrapped(tiny_model: Path, method: AdaLora) -> Any:
    from transformers import AutoModelForCausalLM

    return method.wrap(AutoModelForCausalLM.from_pretrained(tiny_model))


def test_a_run_moves_the_ranks_and_ends_on_the_budget(recipe: Callable[..., Path], ftune: Callable[..., Done]) -> None:
    peft = {"type": "adalora", "rank": 2, "initial_rank": 4, "every": 2}
    done = ftune("sft", recipe(peft=peft, schedule={"max_steps": 20}, output_dir="run"))
    assert done.code == 0, done.err
    events = [json.loads(line) for line in Path("run/events.jsonl").read_text().splitlines()]
    moves = [event for event in events if event["kind"] == "method"]
    assert [event["step"] for event in moves] == [4, 6, 8, 10, 12, 14]
    totals = [event["total_rank"] for event in moves]
    assert totals == sorted(totals, reverse=True)
    assert totals[-1] == 2 * LAYERS
    ranks = moves[-1]["ranks"]
    assert len(ranks) == LAYERS
    assert len(set(ranks.values())) > 1
    saved = json.loads(Path("run/adapter/adapter_config.json").read_text())["rank_pattern"]
    assert sum(sum(kept) for kept in saved.values()) == 2 * LAYERS + sum(rank == 0 for rank in ranks.values())


@pytest.mark.parametrize("steps", [10, 100, 1000])
def test_the_schedule_follows_the_number_of_steps(steps: int, tiny_model: Path) -> None:
    method = AdaLora(warmup=0.2, final=0.3)
    model = wrapped(tiny_model, method)
    method.hook(model).begin(steps)
    config = model.peft_config["default"]
    assert (config.tinit, config.tfinal, config.total_step) == (0.2 * steps, 0.3 * steps, steps)


def test_too_few_steps_are_refused(tiny_model: Path) -> None:
    method = AdaLora(warmup=0.6, final=0.39)
    hook = method.hook(wrapped(tiny_model, method))
    hook.begin(3)
    with pytest.raises(RecipeError, match="too few"):
        hook.begin(0)


def test_an_allocation_that_fell_on_a_skipped_step_is_made_up_for(tiny_model: Path) -> None:
    method = AdaLora(rank=2, initial_rank=4, every=100)
    model = wrapped(tiny_model, method)
    hook = method.hook(model)
    hook.begin(10)
    optimizer = torch.optim.AdamW([value for value in model.parameters() if value.requires_grad], lr=0.01)
    for step in range(1, 9):
        model(IDS, labels=IDS).loss.backward()
        optimizer.step()
        if step != 7:  # the last step before the final phase
            hook.after_step(step)
    kept = model.peft_config["default"].rank_pattern
    assert sum(map(sum, kept.values())) == 2 * LAYERS


def test_the_regulariser_is_that_of_the_paper(tiny_model: Path) -> None:
    method = AdaLora(orthogonality=0.5)
    model = wrapped(tiny_model, method)
    norms = []
    for name, value in model.named_parameters():
        if "lora_A" in name or "lora_B" in name:
            gram = value @ value.T if "lora_A" in name else value.T @ value
            norms.append((gram - torch.eye(12)).square().sum().sqrt())
    found = method.hook(model).regulariser()
    assert found is not None
    assert torch.allclose(found, 0.5 * sum(norms) / len(norms))
    assert found.requires_grad
    plain = model.get_base_model()(IDS, labels=IDS).loss
    assert torch.allclose(model(IDS, labels=IDS).loss, plain)


def test_the_regulariser_counts_once_a_step_however_it_is_accumulated(
    recipe: Callable[..., Path], ftune: Callable[..., Done]
) -> None:
    from safetensors.torch import load_file

    found = []
    for micro in (1, 4):
        path = recipe(
            peft={"type": "adalora", "rank": 2, "initial_rank": 4, "orthogonality": 5.0, "warmup": 0.0, "final": 0.0},
            optim={"optimizer": "sgd", "learning_rate": 0.1, "max_grad_norm": 1e6},  # Adam would hide a factor
            batch={"micro_batch_size": micro, "global_batch_size": 4},
            schedule={"max_steps": 3, "warmup": 0},
            checkpoint={"every": 2},
            output_dir=f"by{micro}",
        )
        assert ftune("sft", path).code == 0
        found.append(load_file(f"by{micro}/checkpoint-2/state/tensors-00001.safetensors"))
    each, together = found
    trained = [name for name in each if name.startswith("weights/")]
    assert trained
    assert all(torch.allclose(each[name], together[name], atol=1e-5) for name in trained)
