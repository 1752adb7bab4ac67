"""Bottleneck adapters: where they sit, how many parameters they have, what they cost and what they promise."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import PeftModel
from pydantic import ValidationError
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from ftune.core.errors import ModelError
from ftune.peft.adapter import Adapter
from ftune.peft.tuners.bottleneck.phm import KroneckerLinear, kronecker_sum, shared_factors

IDS = torch.tensor([[5, 9, 13, 21, 34, 55, 89, 144]])
D, LAYERS = 32, 2

Build = Callable[[], Any]


@pytest.fixture
def base(tiny_model: Path) -> Build:
    return lambda: AutoModelForCausalLM.from_pretrained(tiny_model)


def trainable(model: Any) -> dict[str, torch.nn.Parameter]:
    return {name: value for name, value in model.named_parameters() if value.requires_grad}


def count(model: Any) -> int:
    return sum(value.numel() for value in trainable(model).values())


def disturb(model: Any, seed: int = 0) -> Any:
    """Adapters that do something."""
    torch.manual_seed(seed)
    for value in trainable(model).values():
        torch.nn.init.normal_(value, std=0.2)
    return model.eval()


def sites(model: Any) -> set[str]:
    """Paths of the wrapped sublayers."""
    return {name for name, module in model.get_base_model().named_modules() if hasattr(module, "bottleneck_adapters")}


@pytest.mark.parametrize(("style", "a_layer"), [("houlsby", 2), ("pfeiffer", 1), ("parallel", 1)])
@pytest.mark.parametrize("m", [1, 6])
def test_counts_are_those_of_the_papers(style: Any, a_layer: int, m: int, base: Build) -> None:
    """Houlsby: 2 x (2 d m + d + m) a layer; half of it behind or beside the feed-forward only."""
    assert count(Adapter(style=style, size=m).wrap(base())) == LAYERS * a_layer * (2 * D * m + D + m)


@pytest.mark.parametrize(("n", "r", "m"), [(4, 1, 8), (2, 3, 4)])
def test_a_compacter_has_its_shared_factors_once(n: int, r: int, m: int, base: Build) -> None:
    """n^3 for the whole model, and r (d + m) for each of two projections beside the biases."""
    model = Adapter(compacter=True, phm_dimension=n, phm_rank=r, size=m).wrap(base())
    assert count(model) == n**3 + LAYERS * 2 * (2 * r * (D + m) + D + m)


def test_the_width_follows_the_reduction_factor(base: Build) -> None:
    def width(**settings: Any) -> int:
        config: Any = Adapter(**settings).wrap(base()).peft_config["default"]
        return int(config.size)

    assert width() == D // 16
    assert width(reduction_factor=4.0) == D // 4
    assert width(size=5) == 5
    assert width(reduction_factor=1000.0) == 1
    assert width(reduction_factor=5.0, compacter=True) == 8  # 6.4, up to a multiple of 4


@given(
    n=st.integers(1, 4), out=st.integers(1, 3), into=st.integers(1, 3), rank=st.integers(1, 3), seed=st.integers(0, 9)
)
def test_kronecker_sums_are_those_of_torch(n: int, out: int, into: int, rank: int, seed: int) -> None:
    torch.manual_seed(seed)
    shared, left, right = torch.randn(n, n, n), torch.randn(n, out, rank), torch.randn(n, rank, into)
    wanted = sum(torch.kron(shared[i], left[i] @ right[i]) for i in range(n))
    assert torch.allclose(kronecker_sum(shared, left, right), torch.as_tensor(wanted), atol=1e-5)


def test_a_kronecker_projection_keeps_the_size_of_its_input_at_the_start() -> None:
    torch.manual_seed(0)
    x = torch.randn(64, 256)
    with torch.no_grad():
        ratios = [float(KroneckerLinear(256, 64, 4, 2, zero=False)(x, shared_factors(4)).std()) for _ in range(200)]
    assert 0.5 < sum(ratios) / len(ratios) < 2


@pytest.mark.parametrize("style", ["houlsby", "pfeiffer", "parallel"])
def test_the_output_is_the_equation(style: Any, base: Build) -> None:
    """By hand on the first feed-forward: f(x) + s * up(gelu(down(z))), z = f(x) behind it and x beside it."""
    model = disturb(Adapter(style=style, size=4, scale=3.0).wrap(base()))
    layer = model.get_base_model().model.layers[0].mlp
    bottleneck = layer.bottleneck_adapters["default"]
    x = torch.randn(2, 5, D)
    written = layer.base_layer(x)
    z = x if style == "parallel" else written
    narrow = torch.nn.functional.gelu(z @ bottleneck.down.weight.T + bottleneck.down.bias)
    wanted = written + 3.0 * (narrow @ bottleneck.up.weight.T + bottleneck.up.bias)
    assert torch.allclose(layer(x), wanted, atol=1e-5)


def test_dropped_layers_have_no_adapter_and_no_backward_pass(base: Build) -> None:
    model = Adapter(drop_layers=1).wrap(base()).train()
    assert sites(model) == {"model.layers.1.self_attn", "model.layers.1.mlp"}
    seen: dict[str, torch.Tensor] = {}
    layers: Any = model.get_base_model().model.layers
    for index, layer in enumerate(layers):
        layer.register_forward_hook(lambda _module, _inputs, output, index=index: seen.update({str(index): output}))
    model(IDS, labels=IDS).loss.backward()
    assert not seen["0"].requires_grad
    assert seen["1"].requires_grad
    assert all(value.grad is not None for value in trainable(model).values())


def test_layers_are_dropped_from_encoder_and_decoder() -> None:
    """What is left: two sublayers of the upper encoder layer, three of the upper decoder layer."""
    from transformers import T5Config, T5ForConditionalGeneration

    sizes = {"vocab_size": 64, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
    found = sites(Adapter(drop_layers=1, size=4).wrap(T5ForConditionalGeneration(T5Config(**sizes))))
    assert {path.rpartition(".layer.")[0] for path in found} == {"encoder.block.1", "decoder.block.1"}
    assert len(found) == 2 + 3


def test_shared_factors_are_saved_once_and_belong_to_their_adapter(base: Build, tmp_path: Path) -> None:
    outputs = {}
    for seed, name in enumerate(("first", "second")):
        model = disturb(Adapter(compacter=True).wrap(base()), seed)
        model.save_pretrained(tmp_path / name)
        outputs[name] = model(IDS).logits
        saved = load_file(tmp_path / name / "adapter_model.safetensors")
        assert [key for key in saved if "shared" in key] == ["base_model.bottleneck_shared"]
    loaded: Any = PeftModel.from_pretrained(base(), tmp_path / "first", adapter_name="one", is_trainable=True)
    loaded.load_adapter(tmp_path / "second", adapter_name="two")
    shared = loaded.base_model.bottleneck_shared
    assert shared["one"].requires_grad
    assert not shared["two"].requires_grad
    for name, folder in (("two", "second"), ("one", "first")):
        loaded.set_adapter(name)
        assert torch.allclose(loaded.eval()(IDS).logits, outputs[folder], atol=1e-5)
    loaded.delete_adapter("two")
    assert list(shared) == ["one"]
    assert torch.allclose(loaded(IDS).logits, outputs["first"], atol=1e-5)


@pytest.mark.parametrize("settings", [{}, {"compacter": True}], ids=["plain", "compacter"])
def test_loading_without_a_copy_in_memory_gives_the_same(settings: Any, base: Build, tmp_path: Path) -> None:
    model = disturb(Adapter(**settings).wrap(base()))
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(base(), tmp_path, low_cpu_mem_usage=True).eval()
    assert torch.allclose(loaded(IDS).logits, model(IDS).logits, atol=1e-5)


def test_unloaded_it_is_the_base_and_merging_says_why_not(base: Build) -> None:
    model = disturb(Adapter().wrap(base()))
    with pytest.raises(ModelError, match="not linear"):
        model.merge_and_unload()
    assert torch.equal(model.unload()(IDS).logits, base().eval()(IDS).logits)


@pytest.mark.parametrize("settings", [{}, {"style": "parallel"}, {"compacter": True}], ids=str)
@pytest.mark.parametrize("autocast", [False, True], ids=["plain", "autocast"])
def test_a_16_bit_base_has_adapters_in_fp32(settings: Any, autocast: bool, tiny_model: Path) -> None:
    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.bfloat16)
    model = Adapter(**settings).wrap(base)
    assert {value.dtype for value in trainable(model).values()} == {torch.float32}
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        model(IDS, labels=IDS).loss.backward()
    assert all(value.grad is not None and value.grad.dtype == torch.float32 for value in trainable(model).values())


@pytest.mark.parametrize("settings", [{}, {"style": "parallel"}, {"compacter": True}], ids=str)
def test_generation_with_a_cache_is_that_without(settings: Any, base: Build) -> None:
    model = disturb(Adapter(**settings).wrap(base()))
    options = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None}
    with_cache = model.generate(input_ids=IDS, use_cache=True, **options)
    assert torch.equal(with_cache, model.generate(input_ids=IDS, use_cache=False, **options))
    with model.disable_adapter():
        assert not torch.equal(with_cache, model.generate(input_ids=IDS, **options))


def test_two_active_adapters_add_up(base: Build) -> None:
    model: Any = Adapter(style="pfeiffer", size=4).wrap(base())
    model.add_adapter("other", model.peft_config["default"])
    model.base_model.set_adapter(["default", "other"])
    layer = disturb(model).get_base_model().model.layers[0].mlp
    x = torch.randn(1, 3, D)
    written = layer.base_layer(x)
    changes = [layer.bottleneck_adapters[name](written) for name in ("default", "other")]
    assert torch.allclose(layer(x), written + changes[0] + changes[1], atol=1e-5)


def family(name: str) -> Any:
    """A tiny model of a family, by its class and sizes in that family's words."""
    import transformers

    usual = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    feed = {**usual, "intermediate_size": 48}
    grouped = {**feed, "num_key_value_heads": 2, "head_dim": 8}
    experts = {**grouped, "num_local_experts": 2, "num_experts_per_tok": 1}
    sizes: dict[str, tuple[str, dict[str, Any]]] = {
        "Qwen3": ("ForCausalLM", grouped),
        "Mistral": ("ForCausalLM", grouped),
        "Gemma3": ("", {}),
        "Mixtral": ("ForCausalLM", experts),
        "GptOss": ("ForCausalLM", experts),
        "GPTNeoX": ("ForCausalLM", feed),
        "Falcon": ("ForCausalLM", usual),
        "Bloom": ("ForCausalLM", {"vocab_size": 64, "hidden_size": 32, "n_layer": 2, "n_head": 4}),
        "GPT2": ("LMHeadModel", {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 4}),
        "OPT": (
            "ForCausalLM",
            {**usual, "ffn_dim": 48, "word_embed_proj_dim": 32, "max_position_embeddings": 64},
        ),
        "Bert": ("ForSequenceClassification", feed),
        "Roberta": ("ForSequenceClassification", feed),
        "DistilBert": ("ForSequenceClassification", {"vocab_size": 64, "dim": 32, "n_layers": 2, "n_heads": 4}),
        "Mamba": ("ForCausalLM", {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2}),
    }
    torch.manual_seed(0)
    if name == "Gemma3":
        return transformers.Gemma3ForCausalLM(transformers.Gemma3TextConfig(**grouped))
    task, settings = sizes[name]
    return getattr(transformers, name + task)(getattr(transformers, f"{name}Config")(**settings))


FAMILIES = {
    "Qwen3": ("self_attn", "mlp"),
    "Mistral": ("self_attn", "mlp"),
    "Gemma3": ("self_attn", "mlp"),
    "Mixtral": ("self_attn", "mlp"),
    "GptOss": ("self_attn", "mlp"),
    "GPTNeoX": ("attention", "mlp"),
    "Falcon": ("self_attention", "mlp"),
    "GPT2": ("attn", "mlp"),
    "OPT": ("self_attn", "fc2"),
    "Bert": ("attention.output.dense", "output.dense"),
    "Roberta": ("attention.output.dense", "output.dense"),
    "DistilBert": ("attention", "ffn"),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_sublayers_are_found_in_the_usual_families(name: str) -> None:
    model = family(name).eval()
    before = model(IDS % 64).logits
    wrapped = Adapter(size=4).wrap(model)
    assert torch.equal(wrapped.eval()(IDS % 64).logits, before)
    below = {path.split(f".{layer}.", 1)[1] for path in sites(wrapped) for layer in range(2) if f".{layer}." in path}
    assert below == set(FAMILIES[name])
    assert len(sites(wrapped)) == 2 * 2
    disturb(wrapped)(IDS % 64).logits.sum().backward()
    assert all(value.grad is not None for value in trainable(wrapped).values())
    assert not torch.allclose(wrapped(IDS % 64).logits, before, atol=1e-3)


@pytest.mark.parametrize("name", ["Bert", "OPT"])
def test_parallel_needs_the_feed_forward_as_one_module(name: str) -> None:
    with pytest.raises(ModelError, match="'houlsby' or 'pfeiffer'"):
        Adapter(style="parallel").wrap(family(name))


def test_a_sublayer_that_adds_the_residual_itself_is_not_wrapped() -> None:
    with pytest.raises(ModelError, match="adds the residual itself"):
        Adapter().wrap(family("Bloom"))
    named = Adapter(attention_modules=["self_attention.dense"], feed_forward_modules=["mlp.dense_4h_to_h"])
    assert len(sites(named.wrap(family("Bloom")))) == 4


def test_an_unknown_architecture_is_told_what_exists() -> None:
    with pytest.raises(ModelError, match=r"feed_forward_modules: unknown architecture.*below a layer.*: mixer, norm"):
        Adapter().wrap(family("Mamba"))
    assert len(sites(Adapter(style="pfeiffer", feed_forward_modules=["mixer"]).wrap(family("Mamba")))) == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"feed_forward_modules": ["mpl"]}, "did you mean 'mlp'"),
        ({"attention_modules": ["self_atn"]}, "did you mean 'self_attn'"),
        ({"feed_forward_modules": ["mlp.up_proj"]}, "writes 64 values"),
        ({"drop_layers": 2}, "none of the model's 2 layers"),
        ({"compacter": True, "phm_dimension": 5}, "does not divide the hidden size 32"),
    ],
    ids=str,
)
def test_what_does_not_fit_the_model_is_refused(settings: Any, message: str, base: Build) -> None:
    with pytest.raises(ModelError, match=message):
        Adapter(**settings).wrap(base())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 8, "reduction_factor": 4.0}, "remove one"),
        ({"style": "pfeiffer", "attention_modules": ["self_attn"]}, "has none on attention"),
        ({"phm_rank": 2}, "add 'compacter: true'"),
        ({"compacter": True, "size": 6}, "no multiple of 'phm_dimension'"),
    ],
    ids=str,
)
def test_keys_that_contradict_are_refused(settings: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Adapter(**settings)


def test_a_classifier_keeps_its_head_in_the_adapter(tiny_model: Path, tmp_path: Path) -> None:
    model = disturb(Adapter().wrap(AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=3)))
    model.save_pretrained(tmp_path)
    assert any("score" in name for name in load_file(tmp_path / "adapter_model.safetensors"))
