"""LoRA: its number of parameters, its initialisations, LoRA+ in the optimiser."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ftune.core.errors import ModelError
from ftune.models.load import load_model
from ftune.models.quantization.nf4 import Nf4
from ftune.peft.base import Material, count_parameters
from ftune.peft.lora import Lora
from ftune.peft.targets import linear_names
from tests.conftest import Done


def base(tiny_model: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_model)


def test_rank_8_beside_512_by_64() -> None:
    """8 * (512 + 64) = 4,608 parameters against 32,768."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=16, hidden_size=64, intermediate_size=512, num_hidden_layers=1, num_attention_heads=2
    )
    model = Lora(rank=8, target_modules=["up_proj"]).wrap(LlamaForCausalLM(config))
    assert model.get_submodule("base_model.model.model.layers.0.mlp.up_proj").base_layer.weight.numel() == 32_768
    assert count_parameters(model)[0] == 4_608


def test_on_all_linear_layers_it_has_rank_times_in_and_out() -> None:
    """A grouped-query Llama: d 48, key and value width 16, feed-forward 80, three layers."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=64,
        hidden_size=48,
        intermediate_size=80,
        num_hidden_layers=3,
        num_attention_heads=6,
        num_key_value_heads=2,
    )
    shapes = [(48, 48), (48, 16), (48, 16), (48, 48), (48, 80), (48, 80), (80, 48)]
    model = Lora(rank=4).wrap(LlamaForCausalLM(config))
    assert count_parameters(model)[0] == 3 * sum(4 * (wide + tall) for wide, tall in shapes)


def test_dora_adds_a_magnitude_a_row(tiny_model: Path) -> None:
    plain = count_parameters(Lora(rank=4).wrap(base(tiny_model)))[0]
    untouched = base(tiny_model)
    rows = sum(untouched.get_submodule(name).weight.shape[0] for name in linear_names(untouched))
    assert count_parameters(Lora(rank=4, dora=True).wrap(base(tiny_model)))[0] == plain + rows


def test_a_starts_random_and_b_at_zero(tiny_model: Path) -> None:
    for init, spread in (("default", 1 / (3 * 32) ** 0.5), ("gaussian", 1 / 4)):
        torch.manual_seed(0)
        model = Lora.model_validate({"rank": 4, "init": init, "target_modules": ["q_proj"]}).wrap(base(tiny_model))
        state = {name: value for name, value in model.named_parameters() if "lora_" in name}
        first = torch.cat([value.flatten() for name, value in state.items() if "lora_A" in name])
        assert abs(float(first.std()) / spread - 1) < 0.2
        assert all(not value.any() for name, value in state.items() if "lora_B" in name)


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_what_an_initialisation_takes_from_the_base_is_its_leading_part(init: str, tiny_model: Path) -> None:
    exact = base(tiny_model).model.layers[0].mlp.up_proj.weight
    model = Lora.model_validate({"rank": 4, "alpha": 4.0, "init": init}).wrap(base(tiny_model))
    layer = model.get_submodule("base_model.model.model.layers.0.mlp.up_proj")
    product = layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    assert torch.allclose(layer.base_layer.weight + product, exact, atol=1e-5)
    if init == "pissa":
        values = torch.linalg.svdvals(exact)
        assert torch.allclose(torch.linalg.svdvals(product)[:4], values[:4], rtol=1e-3)
        assert torch.allclose(torch.linalg.svdvals(layer.base_layer.weight)[:4], values[4:8], rtol=1e-3)


def test_what_starts_from_the_base_is_saved_as_a_plain_adapter(tiny_model: Path, tmp_path: Path) -> None:
    method = Lora(rank=4, init="pissa", rank_pattern={"up_proj": 6})
    method.export(method.wrap(base(tiny_model)), tmp_path)
    saved = json.loads((tmp_path / "adapter_config.json").read_text())
    assert saved["init_lora_weights"] is True
    assert (saved["r"], saved["lora_alpha"], saved["rank_pattern"]) == (8, 64.0, {"up_proj": 12})


def test_loftq_makes_good_what_nf4_loses(tiny_model: Path) -> None:
    from bitsandbytes.functional import dequantize_4bit

    quantised = load_model(str(tiny_model), dtype="float32", loader_args=Nf4().loader_args("float32"))
    model = Lora(rank=8, init="loftq").wrap(quantised, Material(located=str(tiny_model)))
    exact = base(tiny_model).model.layers[1].mlp.gate_proj.weight
    layer = model.get_submodule("base_model.model.model.layers.1.mlp.gate_proj")
    stored = layer.get_base_layer().weight
    known = dequantize_4bit(stored.data, stored.quant_state).float()
    update = layer.scaling["default"] * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    assert (exact - known - update).norm() < 0.8 * (exact - known).norm()
    best = torch.linalg.svdvals(exact - known)[8:].square().sum().sqrt()
    assert torch.allclose((exact - known - update).norm(), best, rtol=1e-3)


def test_loftq_says_which_weights_it_misses(tiny_model: Path, tmp_path: Path) -> None:
    quantised = load_model(str(tiny_model), dtype="float32", loader_args=Nf4().loader_args("float32"))
    with pytest.raises(ModelError, match=r"no tensor 'model\.layers\.0\.self_attn\.q_proj\.weight'"):
        Lora(init="loftq").wrap(quantised, Material(located=str(tmp_path)))


def test_eva_starts_where_the_rows_vary_most(tiny_model: Path) -> None:
    rows = torch.randint(3, 300, (12, 32), generator=torch.Generator().manual_seed(1)).tolist()
    model = Lora(rank=4, init="eva", target_modules=["q_proj"], layers=[0]).wrap(base(tiny_model), Material(rows=rows))
    layer = model.get_submodule("base_model.model.model.layers.0.self_attn.q_proj")
    plain = base(tiny_model)
    with torch.no_grad():
        inputs = plain.model.layers[0].input_layernorm(plain.model.embed_tokens(torch.tensor(rows))).flatten(0, 1)
    components = torch.linalg.svd(inputs - inputs.mean(0), full_matrices=False)[2]
    found = layer.lora_A["default"].weight
    assert float((found[0] @ components[0]).abs()) > 0.9
    assert not layer.lora_B["default"].weight.any()


def test_eva_takes_short_rows_together(tiny_model: Path) -> None:
    """8 components want 8 tokens, and no four of these rows have them."""
    model = Lora(rank=4, init="eva", target_modules=["q_proj"]).wrap(base(tiny_model), Material(rows=[[5], [9]] * 8))
    assert not model.get_submodule("base_model.model.model.layers.0.self_attn.q_proj").lora_B["default"].weight.any()


def test_eva_refuses_a_rank_for_which_the_rows_are_too_few(tiny_model: Path) -> None:
    with pytest.raises(ModelError, match="needs 8 tokens for this rank, and its 2 rows have 6"):
        Lora(rank=4, init="eva").wrap(base(tiny_model), Material(rows=[[5, 6, 7], [8, 9, 10]]))


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_a_rank_above_the_principal_components_is_refused(init: str, tiny_model: Path) -> None:
    with pytest.raises(ModelError, match=r"20 is more than the 16 principal components of .*k_proj"):
        Lora.model_validate({"rank": 20, "init": init}).wrap(base(tiny_model))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank_pattern": {"[": 3}}, "'\\[' is no regular expression"),
        ({"rank_pattern": {"up_porj": 3}}, "did you mean 'up_proj'"),
        ({"modules_to_save": ["lm_haed"]}, "did you mean 'lm_head'"),
        ({"modules_to_save": ["model"]}, "nothing is left to adapt"),
        ({"layers": [7]}, "the model has layers 0 to 1"),
    ],
)
def test_what_the_model_lacks_is_named(settings: dict[str, object], message: str, tiny_model: Path) -> None:
    with pytest.raises(ModelError, match=message):
        Lora.model_validate(settings).wrap(base(tiny_model))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"init": "orthogonal", "rank": 3}, "every rank must be even"),
        ({"init": "eva", "dora": True}, "use another init"),
        ({"init": "eva", "rank_pattern": {"q_proj": 2}}, "remove one of both"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Lora.model_validate(settings)


def test_lora_plus_reaches_the_optimiser(recipe: Callable[..., Path], ftune: Callable[..., Done]) -> None:
    peft = {"type": "lora", "rank": 2, "loraplus_ratio": 16}
    schedule = {"max_steps": 2, "type": "constant", "warmup": 0}
    done = ftune("sft", recipe(peft=peft, schedule=schedule, output_dir="run"))
    assert done.code == 0, done.err
    groups = json.loads(Path("run/checkpoint-2/state/state.json").read_text())["scalars"]["groups"]
    rates = {group["values"]["lr"]: len(group["parameters"]) for group in groups}
    assert rates == {0.005: 14, 0.08: 14}
