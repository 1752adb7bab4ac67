"""Results load with plain peft or transformers, and hold nothing of the critic."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ftune.peft.full import Full
from ftune.peft.lora import Lora
from ftune.ppo.build import build
from ftune.ppo.saving import VALUE_HEAD, save_policy, save_value
from tests.ppo.models import llama, sequences, stir

IDS = sequences().ids_BS


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits  # type: ignore[no-any-return]


@pytest.mark.parametrize("init", ["default", "pissa"])
def test_the_policy_loads_with_peft_on_the_untouched_base(init: str, tmp_path: Path) -> None:
    from peft import PeftModel

    method = Lora.model_validate({"rank": 4, "init": init})
    actor_critic = build(method.wrap(llama()), value="adapter", reference="adapter")
    stir(actor_critic)
    save_policy(actor_critic, tmp_path, method.export)
    assert {path.name for path in tmp_path.iterdir()} <= {
        "adapter_model.safetensors",
        "adapter_config.json",
        "README.md",
    }
    assert torch.allclose(
        logits(PeftModel.from_pretrained(llama(), str(tmp_path))), logits(actor_critic.model), atol=1e-4
    )
    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert len(saved) == len(actor_critic.parameter_groups()["policy"])
    assert list(actor_critic.model.peft_config) == ["default", "reference", "value"]


def test_a_start_adapter_is_saved_without_a_method(tmp_path: Path) -> None:
    from peft import PeftModel

    Lora(rank=4).wrap(llama()).save_pretrained(str(tmp_path / "start"))
    actor_critic = build(llama(), start_adapter=tmp_path / "start")
    stir(actor_critic)
    save_policy(actor_critic, tmp_path / "end")
    assert torch.equal(logits(PeftModel.from_pretrained(llama(), str(tmp_path / "end"))), logits(actor_critic.model))


def test_a_whole_policy_loads_with_transformers(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    actor_critic = build(Full().wrap(llama()), value="copy")
    stir(actor_critic)
    save_policy(actor_critic, tmp_path / "policy", Full().export)
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "policy")), logits(actor_critic.model))


def test_the_value_is_saved_apart(tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModel

    adapted, whole = build(Lora(rank=4).wrap(llama()), value="adapter"), build(Full().wrap(llama()), value="copy")
    for name, actor_critic in (("adapter", adapted), ("copy", whole)):
        stir(actor_critic)
        save_value(actor_critic, tmp_path / name)
        head = load_file(tmp_path / name / VALUE_HEAD)
        assert torch.equal(head["weight"], actor_critic.value_head.weight)
        assert torch.equal(head["bias"], actor_critic.value_head.bias)
    assert {path.name for path in (tmp_path / "adapter").iterdir()} <= {VALUE_HEAD, "value", "README.md"}
    loaded = PeftModel.from_pretrained(llama(), str(tmp_path / "adapter" / "value"))
    adapted.model.set_adapter("value")
    assert torch.equal(logits(loaded), logits(adapted.model))
    backbone = AutoModel.from_pretrained(tmp_path / "copy" / "value").eval()
    with torch.no_grad():
        ours, theirs = whole.value_copy(input_ids=IDS), backbone(input_ids=IDS)
    assert torch.equal(ours.last_hidden_state, theirs.last_hidden_state)
