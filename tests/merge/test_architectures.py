"""Models whose files hold their weights under other names, or in other pieces, than their class has them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import Done
from tests.merge.conftest import Refused, Run

SIZES = {
    "vocab_size": 301,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "initializer_range": 0.2,
}
HEADS = {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64, "pad_token_id": 0}
GEMMA = {**SIZES, **HEADS, "head_dim": 8, "sliding_window": 16, "query_pre_attn_scalar": 8}
EYES = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
PIXELS = {"image_size": 28, "patch_size": 14}
MOE = {**SIZES, **HEADS, "num_experts_per_tok": 2}
EXPERTS = ["experts.gate_up_proj", "experts.down_proj"]

CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "a buffer of one value": ("Gemma2Config", GEMMA, {}),
    "eyes beside the language model": (
        "Gemma3Config",
        {"text_config": GEMMA, "vision_config": EYES | PIXELS, "mm_tokens_per_image": 4},
        {},
    ),
    "experts of Mixtral": ("MixtralConfig", {**MOE, "num_local_experts": 3}, {"target_parameters": EXPERTS}),
    "router of Mixtral": ("MixtralConfig", {**MOE, "num_local_experts": 3}, {"target_parameters": ["mlp.gate.weight"]}),
    "experts of Qwen3": (
        "Qwen3MoeConfig",
        {**MOE, "num_experts": 3, "moe_intermediate_size": 8, "head_dim": 8},
        {"target_parameters": EXPERTS},
    ),
}


def base_of(case: str, folder: Path, seed: int = 0) -> Any:
    """A model of random weights, and its folder."""
    import transformers

    kind, settings, _ = CASES[case]
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(getattr(transformers, kind)(**settings))
    model.save_pretrained(folder)
    return model.eval()


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=torch.arange(3, 27).view(2, 12)).logits
    return found


def opened(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder).eval()


def shapes(folder: Path) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in load_file(folder / "model.safetensors").items()}


@pytest.fixture
def at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.usefixtures("at")
def test_an_adapter_of_it_is_merged(case: str, ftune: Run) -> None:
    from peft import LoraConfig, get_peft_model

    model = base_of(case, Path("base"))
    config = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False, **CASES[case][2])
    adapted: Any = get_peft_model(model, config)
    adapted.eval().save_pretrained("adapter")
    done: Done = ftune("merge", "adapter", "--base", "base", "--output", "merged", "--no-verify")
    assert done.code == 0, done.err
    wanted = logits(adapted)
    assert float((wanted - logits(opened(Path("base")))).abs().max()) > 0.1
    assert torch.allclose(logits(opened(Path("merged"))), wanted, atol=1e-4)
    assert shapes(Path("merged")) == shapes(Path("base"))
    before, after = (json.loads(Path(folder, "config.json").read_text()) for folder in ("base", "merged"))
    assert after == before


@pytest.mark.usefixtures("at")
def test_whole_models_of_experts_are_averaged(ftune: Run) -> None:
    case = "experts of Mixtral"
    for seed in (1, 2):
        base_of(case, Path(f"model{seed}"), seed)
    words = ["sources=[{path: model1, weight: 0.25}, {path: model2, weight: 0.75}]", "--output", "merged"]
    done = ftune("merge", "model1", *words, "--no-verify")
    assert done.code == 0, done.err
    one, two, both = (load_file(Path(name, "model.safetensors")) for name in ("model1", "model2", "merged"))
    assert both.keys() == one.keys()
    for name, value in both.items():
        assert torch.allclose(value, 0.25 * one[name] + 0.75 * two[name], atol=1e-6), name


def test_a_model_with_an_encoder_is_refused(refused: Refused, tmp_path: Path) -> None:
    from transformers import T5Config, T5ForConditionalGeneration

    small = T5Config(vocab_size=301, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    T5ForConditionalGeneration(small).save_pretrained(tmp_path / "t5")
    said = refused("adapter", "--base", "t5", "--no-verify")
    assert "t5: a model of type 't5' is no causal language model" in said
