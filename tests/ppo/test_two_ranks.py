"""Two processes on halves of a minibatch compute what one computes on all of it, through DDP and FSDP2."""

import json
from pathlib import Path

import pytest
import torch

from ftune.peft.lora import Lora
from tests.pair import once, run_pair
from tests.ppo.models import llama, lora, sequences, stir

pytestmark = pytest.mark.slow  # the update on two ranks is in the gate


def compute(place: Path) -> None:
    from transformers import LlamaForSequenceClassification

    torch.manual_seed(0)
    Lora(rank=4).wrap(LlamaForSequenceClassification(llama().config)).save_pretrained(str(place / "reward"))
    run_pair("tests.ppo.two_ranks", place)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where both have left what they found."""
    return once(tmp_path_factory, "two_ranks", compute)


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
@pytest.mark.parametrize("value", ["trunk", "adapter"])
def test_gradients_scores_and_states_are_those_of_one_process(kind: str, value: str, folder: Path) -> None:
    for rank in range(2):
        found = json.loads((folder / f"rank_{rank}.json").read_text(encoding="utf-8"))[f"{kind} {value}"]
        largest = found.pop("largest")
        assert largest > 0.01
        assert found.pop("gradients") < 2e-6 * largest
        assert found.pop("state") == 0.0
        assert {name: difference for name, difference in found.items() if difference > 2e-6} == {}


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_what_was_sharded_is_saved_whole(kind: str, folder: Path) -> None:
    from peft import PeftModel

    from ftune.ppo.build import build

    exact = build(lora(), value="adapter")
    stir(exact)
    loaded = PeftModel.from_pretrained(llama(), str(folder / kind / "adapter")).eval()
    ids = sequences().ids_BS
    with torch.no_grad():
        assert torch.equal(loaded(input_ids=ids).logits, exact.model(input_ids=ids).logits)
