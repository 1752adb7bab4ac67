"""Plain LoRA that is added a few rows at a time is what peft merges."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from ftune.merge.engines import lora_rows
from ftune.merge.engines.lora_rows import is_plain, with_update

OUT, IN = 50, 24


def wrapped(bias: bool = False, **settings: Any) -> Any:
    """A linear map with an adapter whose factors are not zero."""
    torch.manual_seed(3)
    model = nn.ModuleDict({"map": nn.Linear(IN, OUT, bias=bias)})
    config = LoraConfig(r=4, lora_alpha=12, target_modules=["map"], init_lora_weights=False, **settings)
    return get_peft_model(model, config).base_model.model["map"]  # type: ignore[arg-type]


@pytest.mark.parametrize("values", [1, 7 * IN, OUT * IN, 10**6], ids="values_{}".format)
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16])
def test_it_is_what_peft_merges_in_fp32_rounded_once(
    values: int, stored: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lora_rows, "VALUES", values)
    for written in (torch.float32, torch.bfloat16):
        layer = wrapped(use_rslora=True)
        before = layer.base_layer.weight.detach().clone().to(stored)
        layer.base_layer.weight.data = before.float().clone()
        found = with_update(before.clone(), layer, written)
        layer.merge()
        exact = layer.base_layer.weight.detach()
        assert found.dtype == written
        torch.testing.assert_close(
            found, exact.to(written), rtol=1e-6 if written == torch.float32 else 2**-7, atol=1e-6
        )
        assert not torch.equal(found, before.to(written))


def test_a_weight_that_has_the_dtype_is_changed_in_its_own_memory() -> None:
    value = torch.ones(OUT, IN, dtype=torch.bfloat16)
    assert with_update(value, wrapped(), torch.bfloat16) is value
    kept = value.clone()
    assert with_update(value, wrapped(), torch.float32) is not value
    assert torch.equal(value, kept)


def test_the_threads_of_torch_are_as_before() -> None:
    before = torch.get_num_threads()
    with_update(torch.ones(OUT, IN), wrapped(), torch.float32)
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("build", "plain"),
    [
        (lambda: wrapped(), True),
        (lambda: wrapped(use_rslora=True), True),
        (lambda: wrapped(bias=True), False),
        (lambda: wrapped(bias=True, lora_bias=True), False),
        (lambda: wrapped(use_dora=True), False),
        (lambda: nn.Linear(IN, OUT), False),
        (lambda: None, False),
    ],
)
def test_only_what_is_nothing_but_an_update_is_plain(build: Callable[[], Any], plain: bool) -> None:
    assert is_plain(build()) is plain
