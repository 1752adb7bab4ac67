"""Products in FP8 are those of rounded numbers, in decoder layers alone, and the model is its own again behind."""

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

from ftune.speed.fp8 import Scales, convertible, fp8_products

pytest.importorskip("torchao")

SHAPE: dict[str, Any] = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
LARGEST = {torch.float8_e4m3fn: 448.0, torch.float8_e5m2: 57344.0}


def llama(**more: Any) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(LlamaConfig(**{**SHAPE, "intermediate_size": 48, **more}))


def kinds(model: Any) -> dict[str, str]:
    return {name: type(module).__name__ for name, module in model.named_modules() if isinstance(module, nn.Linear)}


def test_products_of_decoder_layers_become_fp8_and_nothing_else() -> None:
    model = llama()
    before = kinds(model)
    with fp8_products(model, "tensorwise", emulated=True):
        inside = kinds(model)
        assert inside.pop("lm_head") == "Linear"
        assert set(inside.values()) == {"Float8Linear"}
        assert len(inside) == 14 == len(convertible(model)) + 14  # none is left
    assert kinds(model) == before


def test_widths_that_a_gpu_does_not_take_stay_as_they_are() -> None:
    model = llama(intermediate_size=40)
    assert {name for _, name, _ in convertible(model)} == {"q_proj", "k_proj", "v_proj", "o_proj"}
    with fp8_products(model, "rowwise", emulated=True):
        assert kinds(model)["model.layers.1.mlp.up_proj"] == "Linear"
    gpt2 = GPT2Config(vocab_size=64, n_embd=32, n_layer=1, n_head=2)
    assert convertible(AutoModelForCausalLM.from_config(gpt2)) == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("fails", [False, True])
def test_parameters_and_layers_are_the_same_objects_all_the_time(dtype: torch.dtype, fails: bool) -> None:
    model = llama().to(dtype)
    parameters, modules = dict(model.named_parameters()), dict(model.named_modules())
    optimizer = torch.optim.AdamW(model.parameters(), 0.1)
    ids = torch.arange(20)[None]
    with pytest.raises(InterruptedError) if fails else nullcontext(), fp8_products(model, "tensorwise", emulated=True):
        inside = dict(model.named_parameters())
        assert list(inside) == list(parameters)
        assert all(inside[name] is one for name, one in parameters.items())
        assert {name: value.dtype for name, value in model.state_dict().items()} == dict.fromkeys(parameters, dtype)
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        if fails:
            raise InterruptedError
    assert all(one is parameters[name] and one in optimizer.state for name, one in model.named_parameters())
    assert dict(model.named_modules()) == modules
    assert not any(hasattr(module, "linear_mm_config") for module in model.modules())


def rounded(value: Tensor, kind: torch.dtype, dim: int | None) -> Tensor:
    """The numbers that FP8 has in place of these: all of them, or those along `dim`, share a scale."""
    largest = value.abs().max() if dim is None else value.abs().amax(dim, keepdim=True)
    scale = LARGEST[kind] / largest.double()
    if dim is not None:
        scale = torch.exp2(torch.floor(torch.log2(scale)))
    return (value * scale.float()).clamp(-LARGEST[kind], LARGEST[kind]).to(kind).double() / scale


@pytest.mark.parametrize("scales", ["tensorwise", "rowwise"])
def test_a_product_is_that_of_rounded_numbers(scales: Scales) -> None:
    model = llama()
    number, row = torch.float8_e4m3fn, scales == "rowwise"
    slope = number if row else torch.float8_e5m2
    x, dy = (torch.randn(16, width, generator=torch.Generator().manual_seed(width)) for width in (32, 48))
    x.requires_grad_()
    with fp8_products(model, scales, emulated=True):
        layer = model.model.layers[0].mlp.up_proj
        y = layer(x)
        y.backward(dy)
    weight, given = layer.weight.detach(), x.detach()
    across, down = (1, 0) if row else (None, None)
    expected = {
        "output": (y, rounded(given, number, across) @ rounded(weight, number, across).T),
        "input": (x.grad, rounded(dy, slope, across) @ rounded(weight, number, down)),
        "weight": (layer.weight.grad, rounded(dy, slope, down).T @ rounded(given, number, down)),
    }
    for what, (found, exact) in expected.items():
        assert found is not None
        off = (found.double() - exact).norm() / exact.norm()
        assert float(off) < 1e-5, what
    plain = nn.functional.linear(given, weight)
    assert 0.01 < float((y - plain).norm() / plain.norm()) < 0.08
