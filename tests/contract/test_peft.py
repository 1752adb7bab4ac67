"""What every PEFT method promises, run on each file of `ftune/peft` by discovery."""

from pathlib import Path
from typing import Any

import pytest
import torch

from ftune.core.variants import variants_of
from ftune.peft.base import PeftMethod, count_parameters

METHODS = variants_of(PeftMethod)
IDS = torch.tensor([[5, 9, 13, 21, 34, 55, 89, 144]])


def base(tiny_model: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_model)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.eval()(IDS).logits
    return found


def trained(model: Any, steps: int = 60) -> tuple[float, float]:
    """First and last loss of a few steps on one row."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.03)
    model.train()
    losses = []
    for _ in range(steps):
        loss = model(IDS, labels=IDS).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss))
    return losses[0], losses[-1]


@pytest.mark.parametrize("name", METHODS)
def test_step_zero_is_the_base_and_only_its_parameters_train(name: str, tiny_model: Path) -> None:
    untouched = base(tiny_model)
    before = logits(untouched)
    model = METHODS[name](type=name).wrap(base(tiny_model))
    assert torch.allclose(logits(model), before, atol=1e-6)
    trainable, total = count_parameters(model)
    assert 0 < trainable <= total
    assert all(p.dtype == torch.float32 for p in model.parameters() if p.requires_grad)
    frozen = {key: value.clone() for key, value in model.named_parameters() if not value.requires_grad}
    first, last = trained(model)
    assert last < 0.8 * first
    assert all(torch.equal(dict(model.named_parameters())[key], value) for key, value in frozen.items())


@pytest.mark.parametrize("name", METHODS)
def test_saved_and_loaded_it_gives_the_same_logits(name: str, tiny_model: Path, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    method = METHODS[name](type=name)
    model: Any = method.wrap(base(tiny_model))
    trained(model, steps=3)
    model.save_pretrained(tmp_path)
    loaded = (
        PeftModel.from_pretrained(base(tiny_model), tmp_path)
        if method.library == "peft"
        else AutoModelForCausalLM.from_pretrained(tmp_path)
    )
    assert torch.allclose(logits(loaded), logits(model), atol=1e-6)


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.library == "peft"])
def test_merged_it_gives_the_same_logits(name: str, tiny_model: Path) -> None:
    model: Any = METHODS[name](type=name).wrap(base(tiny_model))
    trained(model, steps=3)
    wanted = logits(model)
    assert torch.allclose(logits(model.merge_and_unload()), wanted, rtol=1e-5, atol=1e-5)


def test_lora_counts_match_the_formula() -> None:
    """Rank 8 on a 512 x 64 layer: 8 * (512 + 64) = 4,608 parameters against 32,768."""
    from peft import LoraConfig, inject_adapter_in_model

    layer = torch.nn.Sequential(torch.nn.Linear(512, 64, bias=False))
    assert count_parameters(layer) == (32_768, 32_768)
    adapted = inject_adapter_in_model(LoraConfig(r=8, target_modules=["0"]), layer)
    assert sum(p.numel() for p in adapted.parameters() if p.requires_grad) == 4_608
