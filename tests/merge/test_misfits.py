"""Adapters and bases that do not go together, and adapters that cannot be merged into any."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.merge.conftest import ADAPTER, Refused, a_run, change, edit


def config_of(tiny_model: Path, **keys: object) -> Any:
    from transformers import LlamaConfig

    return LlamaConfig.from_pretrained(tiny_model, **keys)


def test_a_base_of_another_size(refused: Refused, tiny_model: Path) -> None:
    from transformers import LlamaForCausalLM

    LlamaForCausalLM(config_of(tiny_model, hidden_size=48)).save_pretrained("wide")
    assert "wide: holds no tokenizer that can be loaded" in refused("adapter", "--base", "wide")
    said = refused("adapter", "--base", "wide", "--no-verify")
    assert "trained on another base: 4 tensors are of other shapes: 'model.layers.0.self_attn.q_proj.lora_A'" in said
    assert "is [4, 32], not [4, 48]" in said
    assert said.count("lora_") == 3
    assert "--base" in said
    said = refused(tiny_model, 'sources=["wide", "adapter"]', f"base={tiny_model}")
    assert "'model.embed_tokens.weight' is (301, 48), not (301, 32)" in said
    assert "and 17 more" in said


def test_a_base_of_fewer_layers(refused: Refused, tiny_model: Path) -> None:
    from transformers import LlamaForCausalLM

    LlamaForCausalLM(config_of(tiny_model, num_hidden_layers=1)).save_pretrained("short")
    said = refused("adapter", "--base", "short", "--no-verify")
    assert "trained on another base: this one has no place for" in said
    assert "'base_model.model.model.layers.1.mlp.up_proj.lora_A.weight'" in said
    assert "and 1 more" in said
    half = [{"path": path, "weight": 0.5} for path in ("short", str(tiny_model))]
    for sources in (half, half[::-1]):
        said = refused("short", f"sources={json.dumps(sources)}", "--no-verify")
        assert "'model.layers.1." in said
        assert "and 6 more" in said


def test_a_base_of_other_names(refused: Refused, tiny_model: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=1, n_head=4, vocab_size=301, n_positions=64)).save_pretrained("gpt2")
    for file in tiny_model.glob("tokenizer*"):
        shutil.copy(file, "gpt2")
    said = refused("adapter", "--base", "gpt2")
    assert "trained on another base: this one has no layers called 'q_proj', 'up_proj'" in said


def test_methods_that_cannot_be_merged(refused: Refused, adapter: Path, tiny_model: Path) -> None:
    a_run(Path("prompt"), adapter, tiny_model, peft={"type": "prompt"})
    said = refused("prompt")
    assert "prompt: cannot be merged: virtual tokens are inputs, not weights" in said
    a_run(Path("bottleneck"), adapter, tiny_model, peft={"type": "adapter"})
    assert "not linear" in refused("bottleneck/adapter")


def test_foreign_adapters_that_cannot_be_merged(refused: Refused, tiny_model: Path) -> None:
    from peft import PromptTuningConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from ftune.peft.adapter import Adapter

    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model), config).save_pretrained("prompt")
    Adapter().wrap(AutoModelForCausalLM.from_pretrained(tiny_model)).save_pretrained("bottleneck")
    said = refused("prompt")
    assert said.startswith("prompt: virtual tokens are no weights")
    assert "peft loads it on its base" in said
    said = refused("bottleneck")
    assert said.startswith("bottleneck: cannot be merged: ")
    assert "not linear" in said


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"base_model_name_or_path": None}, "does not say what it was trained on; name it with --base MODEL"),
        ({"base_model_name_or_path": "./gone"}, "its base (--base names another): no such file or folder './gone'"),
        ({"base_model_name_or_path": "nobody/gone"}, "its base (--base names another): 'nobody/gone' is not in the"),
        ({"peft_type": None}, "does not say what kind of adapter it is"),
        ({"peft_type": "NOPE"}, "is a 'NOPE' adapter, which peft "),
        ({"r": "x"}, "cannot be put on the base"),
        ({"r": 8}, "are of other shapes"),
    ],
)
def test_settings_of_an_adapter(refused: Refused, adapter: Path, keys: dict[str, object], said: str) -> None:
    change(adapter / "adapter_config.json", **keys)
    found = refused("adapter")
    assert found.startswith("adapter: ")
    assert said in found


def test_an_adapter_that_is_not_whole(refused: Refused, adapter: Path) -> None:
    name = "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight"
    whole = (adapter / ADAPTER).read_bytes()
    edit(adapter / ADAPTER, lambda tensors: tensors.pop(name))
    assert f"{ADAPTER}: lacks '{name}'" in refused("adapter")
    (adapter / ADAPTER).write_bytes(whole)
    edit(adapter / ADAPTER, lambda tensors: tensors[name][0].fill_(torch.nan))
    assert f"{ADAPTER}: '{name}' holds values that are not finite" in refused("adapter", "--no-verify")
    (adapter / ADAPTER).unlink()
    assert f"holds no {ADAPTER}" in refused("adapter")
