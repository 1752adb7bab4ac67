"""What every PEFT method that claims to go with a quantised base promises there, on this machine of CPU or GPU."""

import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from ftune.core.variants import variants_of
from ftune.models.load import load_model
from ftune.models.quantization.base import Quantization
from ftune.peft.adapters import load_adapter
from ftune.peft.base import Material, count_parameters
from ftune.peft.lora import Lora
from tests.contract.cases import cases, method
from tests.contract.test_peft import IDS, Build, logits, often, relative, trained

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
WAYS = ("nf4", "int8")
STEPS = 8
ABLE = [(case, way) for case in cases() for way in WAYS if way not in method(case).limits()]


def quantised(way: str, path: Path) -> Any:
    """The model in `path` as a run loads it with `model.quantization: way`, computing in fp32."""
    loader_args = variants_of(Quantization)[way]().loader_args("float32")
    return load_model(str(path), dtype="float32", device=DEVICE, loader_args=loader_args)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="MatMul8bitLt: inputs will be cast")
        yield


@pytest.fixture
def material(tiny_model: Path) -> Material:
    from transformers import AutoTokenizer

    generator = torch.Generator().manual_seed(7)
    rows = torch.randint(3, 300, (8, 24), generator=generator).tolist()
    return Material(AutoTokenizer.from_pretrained(tiny_model), str(tiny_model), rows)


@pytest.mark.parametrize("way", WAYS)
def test_the_base_is_quantised(way: str, tiny_model: Path) -> None:
    """Without this, nothing below would be tested."""
    kinds = {type(module).__name__ for module in quantised(way, tiny_model).modules()}
    assert {"nf4": "Linear4bit", "int8": "Linear8bitLt"}[way] in kinds


@pytest.mark.parametrize("way", WAYS)
def test_a_look_at_held_out_rows_leaves_the_gradients_as_they_are(way: str, tiny_model: Path) -> None:
    gradients = []
    for looks in (False, True):
        torch.manual_seed(6)
        model: Any = Lora().wrap(quantised(way, tiny_model))
        trained(model, "lora", 1)  # B is zero before, and A has no gradient then
        if looks:
            logits(model)
        model.train()
        model(input_ids=IDS.to(DEVICE), labels=IDS.to(DEVICE)).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    plain, looked = gradients
    assert plain.keys() == looked.keys()
    assert all(torch.equal(plain[name], looked[name]) for name in plain)
    assert all(bool(gradient.abs().max() > 0) for gradient in plain.values())


@pytest.mark.parametrize(
    ("case", "way"), [pytest.param(case, way, marks=[] if often(case) else pytest.mark.slow) for case, way in ABLE]
)
def test_on_a_quantised_base_only_its_parameters_train_and_are_loaded_again(
    case: str, way: str, tiny_model: Path, tmp_path: Path, material: Material
) -> None:
    base: Build = partial(quantised, way, tiny_model)
    torch.manual_seed(6)
    model: Any = method(case).wrap(base(), material)
    trainable, total = count_parameters(model)
    assert 0 < trainable < total
    assert all(p.dtype == torch.float32 for p in model.parameters() if p.requires_grad)
    kept = {name: value.detach().clone() for name, value in model.named_parameters()}
    first, last = trained(model, case, STEPS)
    assert last < first
    after = dict(model.named_parameters())
    moved = {name for name, value in kept.items() if not torch.equal(after[name], value)}
    assert moved
    assert all(after[name].requires_grad for name in moved)
    wanted = logits(model)
    method(case).export(model, tmp_path)
    assert relative(logits(load_adapter(base(), tmp_path)), wanted) < 1e-5
