"""Two processes that share one split model (FSDP2) compute and save what one process does, and go on from it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ftune.trainers.checkpoint_state import STATE, Beside, load_state, save_state
from ftune.trainers.torch_state import TorchState
from tests.pair import once, run_pair
from tests.trainers.sharded_ranks import CASES, batch, look, made, optimizer_of, train


def write(model: Any, optimizer: Any, folder: Path) -> None:
    folder.mkdir()
    save_state(TorchState(model, optimizer), folder, rank=0, count=1, beside=Beside({"step": 3}))


def train_all(place: Path) -> None:
    losses = {}
    for name, (kind, _) in CASES.items():
        model = made(kind)
        optimizer = optimizer_of(model)
        losses[name] = train(model, optimizer, range(3))
        write(model, optimizer, place / f"{name}-alone")
    (place / "alone.json").write_text(json.dumps(losses))
    run_pair("tests.trainers.sharded_ranks", place)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where one process, and then two, have left what they found."""
    return once(tmp_path_factory, "sharded", train_all)


def found(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads((folder / f"rank_{rank}.json").read_text())[name] for rank in range(2)]


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {key: value for file in folder.rglob("*.safetensors") for key, value in load_file(file).items()}


def same(one: Path, other: Path) -> bool:
    first, second = tensors(one), tensors(other)
    scalars = [json.loads((place / STATE).read_text())["scalars"] for place in (one, other)]
    return (
        first.keys() == second.keys()
        and all(torch.equal(value, second[key]) for key, value in first.items())
        and scalars[0] == scalars[1]
    )


@pytest.mark.parametrize("name", CASES)
def test_losses_are_those_of_one_process_with_all_rows(name: str, folder: Path) -> None:
    alone = json.loads((folder / "alone.json").read_text())
    both = [rank["losses"] for rank in found(folder, name)]
    assert [sum(pair) / 2 for pair in zip(*both, strict=True)] == pytest.approx(alone[name], rel=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_two_processes_go_on_exactly_where_they_were(name: str, folder: Path) -> None:
    for rank in found(folder, name):
        assert rank["seen"][0] == rank["seen"][1]
        assert rank["on"][0] == rank["on"][1]
    assert all((folder / name / f"state/tensors-{number:05}.safetensors").is_file() for number in (1, 2))


@pytest.mark.parametrize("name", CASES)
def test_one_process_goes_on_from_two_and_two_from_one(name: str, folder: Path, tmp_path: Path) -> None:
    kind = CASES[name][0]
    model = made(kind)
    optimizer = optimizer_of(model)
    assert load_state(TorchState(model, optimizer), folder / name).facts == {"step": 3}
    ranks = found(folder, name)
    assert look(model) == pytest.approx(ranks[0]["seen"][0], rel=1e-6)
    write(model, optimizer, tmp_path / "copied")
    assert same(folder / name, tmp_path / "copied")
    assert same(folder / f"{name}-alone", folder / f"{name}-copied")
    both = [sum(pair) / 2 for pair in zip(*(rank["on"][0] for rank in ranks), strict=True)]
    assert train(model, optimizer, range(3, 5)) == pytest.approx(both, rel=1e-5)


def test_what_was_split_is_saved_whole(folder: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from tests.ppo.models import llama

    base = llama(attention_dropout=0.0)
    loaded = {
        "full": AutoModelForCausalLM.from_pretrained(str(folder / "full-result")),
        "lora": PeftModel.from_pretrained(base, str(folder / "lora-result")),
    }
    assert "lm_head.weight" not in tensors(folder / "full-result")  # it is tied to the embeddings
    for name, model in loaded.items():
        exact = made(CASES[name][0])
        load_state(TorchState(exact), folder / name, only_weights=True)
        with torch.no_grad():
            assert torch.equal(model.eval()(input_ids=batch(7)).logits, exact.eval()(input_ids=batch(7)).logits)


def test_an_overflow_on_one_process_skips_the_step_on_both(folder: Path) -> None:
    assert found(folder, "overflow") == [{"scale": 512.0, "changes": [True, False, True]}] * 2


def test_a_head_computes_in_fp32_where_the_model_does_in_bf16(folder: Path) -> None:
    assert [rank["off"] < 1e-6 for rank in found(folder, "scored")] == [True, True]
