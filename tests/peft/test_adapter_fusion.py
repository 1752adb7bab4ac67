"""AdapterFusion: the paper's mixture, frozen adapters, a result that needs nothing else."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from ftune.core.errors import ModelError
from ftune.peft.adapter import Adapter
from ftune.peft.adapter_fusion import AdapterFusion
from tests.conftest import Done

IDS = torch.tensor([[5, 9, 13, 21, 34, 55, 89, 144]])
D, LAYERS = 32, 2

Make = Callable[..., str]


@pytest.fixture
def make(tiny_model: Path, tmp_path: Path) -> Make:
    """Saves a bottleneck adapter that does something, on the tiny model, and gives its folder."""

    def write(name: str, seed: int = 0, **settings: Any) -> str:
        model = Adapter(**{"style": "pfeiffer", "size": 4, **settings}).wrap(load(tiny_model))
        torch.manual_seed(seed)
        for value in model.parameters():
            if value.requires_grad:
                torch.nn.init.normal_(value, std=0.2)
        folder = tmp_path / name
        model.save_pretrained(folder)
        return str(folder)

    return write


def load(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.eval()(IDS).logits
    return found


@pytest.mark.parametrize(("style", "a_layer"), [("houlsby", 2), ("pfeiffer", 1), ("parallel", 1)])
def test_only_the_attention_trains(style: str, a_layer: int, make: Make, tiny_model: Path) -> None:
    """Query and key with a bias, value without: 3 d^2 + 2 d a sublayer."""
    folders = [make("a", 1, style=style), make("b", 2, style=style, size=8)]
    model = AdapterFusion(adapters=folders).wrap(load(tiny_model))
    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    assert sum(value.numel() for value in trained.values()) == LAYERS * a_layer * (3 * D * D + 2 * D)
    model.train()(IDS, labels=IDS).loss.backward()
    assert all(value.grad is not None for value in trained.values())
    assert all(value.grad is None for name, value in model.named_parameters() if name not in trained)


def test_the_output_is_the_equation(make: Make, tiny_model: Path) -> None:
    """By hand, token by token, on the first feed-forward."""
    model = AdapterFusion(adapters=[make("a", 1), make("b", 2), make("c", 3)]).wrap(load(tiny_model))
    layer: Any = model.get_base_model().model.layers[0].mlp
    attention = layer.fusion_attention["default"]
    torch.manual_seed(0)
    for value in attention.parameters():
        torch.nn.init.normal_(value, std=0.3)
    x = torch.randn(1, 3, D)
    written = layer.base_layer(x)
    with torch.no_grad():
        found = layer(x)
        for token in range(3):
            h = written[0, token]
            z = [bottleneck(h) for bottleneck in layer.fusion_adapters["default"]]
            scores = torch.stack([attention.query(h) @ attention.key(one) for one in z])
            weights = (scores - scores.max()).exp() / (scores - scores.max()).exp().sum()
            wanted = h + sum(weight * (attention.value.weight @ one) for weight, one in zip(weights, z, strict=True))
            assert torch.allclose(found[0, token], wanted, atol=1e-4)


@pytest.mark.parametrize("settings", [{}, {"style": "parallel", "scale": 2.0}, {"style": "houlsby"}], ids=str)
@pytest.mark.parametrize("compacter", [False, True])
def test_one_adapter_fused_with_itself_is_that_adapter_at_the_start(
    settings: Any, compacter: bool, make: Make, tiny_model: Path
) -> None:
    """Whatever the weights are, they sum to one, and the value matrix starts as the identity."""
    folder = make("a", 1, compacter=compacter, activation="tanh", **settings)
    fused = AdapterFusion(adapters=[folder, folder]).wrap(load(tiny_model))
    alone = PeftModel.from_pretrained(load(tiny_model), folder)
    assert torch.allclose(logits(fused), logits(alone), atol=1e-3)
    assert not torch.allclose(logits(fused), logits(load(tiny_model)), atol=0.1)


def test_the_result_needs_the_fused_folders_no_more(make: Make, tiny_model: Path, tmp_path: Path) -> None:
    folders = [make("a", 1, compacter=True), make("b", 2)]
    model = AdapterFusion(adapters=folders).wrap(load(tiny_model))
    wanted = logits(model)
    model.save_pretrained(tmp_path / "fused")
    for folder in folders:
        shutil.rmtree(folder)
    loaded = PeftModel.from_pretrained(load(tiny_model), tmp_path / "fused")
    assert torch.allclose(logits(loaded), wanted, atol=1e-5)
    assert not any(value.requires_grad for value in loaded.parameters())
    again = PeftModel.from_pretrained(load(tiny_model), tmp_path / "fused", is_trainable=True)
    trained = [name for name, value in again.named_parameters() if value.requires_grad]
    assert trained
    assert all("fusion_attention" in name for name in trained)


def test_a_16_bit_base_has_attention_in_fp32(make: Make, tiny_model: Path) -> None:
    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.bfloat16)
    model = AdapterFusion(adapters=[make("a", 1), make("b", 2)]).wrap(base)
    for autocast in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            model(IDS, labels=IDS).loss.backward()
    assert all(p.grad is not None and p.dtype == torch.float32 for p in model.parameters() if p.requires_grad)


def test_run_folders_stand_for_their_adapters(make: Make, tiny_model: Path, tmp_path: Path) -> None:
    make("run-a/adapter", 1)
    make("run-b/adapter", 2)
    by_run = AdapterFusion(adapters=[str(tmp_path / "run-a"), str(tmp_path / "run-b")])
    by_folder = AdapterFusion(adapters=[str(tmp_path / "run-a/adapter"), str(tmp_path / "run-b/adapter")])
    assert not list(by_run.faults())
    torch.manual_seed(0)
    one = by_run.wrap(load(tiny_model))
    torch.manual_seed(0)
    assert torch.equal(logits(one), logits(by_folder.wrap(load(tiny_model))))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"style": "parallel"}, "the style differs: 'pfeiffer' in .*, 'parallel' in"),
        ({"drop_layers": 1}, "the set of adapted modules differs: '2, .*' in .*, '1, "),
    ],
    ids=str,
)
def test_adapters_that_differ_are_refused(other: Any, message: str, make: Make, tiny_model: Path) -> None:
    with pytest.raises(ModelError, match=message):
        AdapterFusion(adapters=[make("a"), make("b", **other)]).wrap(load(tiny_model))


def test_adapters_of_different_bases_are_refused(make: Make, tiny_model: Path) -> None:
    folders = [make("a"), make("b")]
    config = Path(folders[1]) / "adapter_config.json"
    config.write_text(config.read_text().replace(str(tiny_model), "another/model"))
    with pytest.raises(ModelError, match=r"the base model differs: .* 'another/model' in"):
        AdapterFusion(adapters=folders).wrap(load(tiny_model))


def test_adapters_of_another_base_or_method_are_refused(make: Make, tiny_model: Path, tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    from ftune.peft.lora import Lora

    fusion = AdapterFusion(adapters=[make("a"), make("b")])
    with pytest.raises(ModelError, match="trained on another base model"):
        fusion.wrap(GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=32, n_layer=1, n_head=2)))
    sizes = {"vocab_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    with pytest.raises(ModelError, match="hidden size of 32, and the model's is 48"):
        fusion.wrap(LlamaForCausalLM(LlamaConfig(hidden_size=48, **sizes)))
    Lora(rank=2).wrap(load(tiny_model)).save_pretrained(tmp_path / "lora")
    with pytest.raises(ModelError, match="holds 'lora'; only 'peft: adapter'"):
        AdapterFusion(adapters=[make("a"), str(tmp_path / "lora")]).wrap(load(tiny_model))


def test_a_missing_folder_is_a_fault_of_the_recipe(
    recipe: Callable[..., Path], ftune: Callable[..., Done], make: Make
) -> None:
    path = recipe(peft={"type": "adapter_fusion", "adapters": [make("a"), "runs/nothing"]})
    done = ftune("sft", path, "--dry-run")
    assert done.code == 2
    assert "peft.adapters[1]: no adapter in 'runs/nothing'" in done.err


def test_a_folder_with_another_adapter_is_a_fault_of_the_recipe(
    recipe: Callable[..., Path], ftune: Callable[..., Done], make: Make, tiny_model: Path, tmp_path: Path
) -> None:
    from ftune.peft.lora import Lora

    Lora(rank=2).wrap(load(tiny_model)).save_pretrained(tmp_path / "lora")
    path = recipe(peft={"type": "adapter_fusion", "adapters": [make("a"), "lora"]})
    done = ftune("sft", path, "--dry-run")
    assert done.code == 2
    assert "peft.adapters[1]: 'lora' holds 'lora'; only adapters of 'peft: adapter' fuse" in done.err
