"""Several LoRA adapters as one: the logits of the base with the weighted sum of their updates, and what is refused."""

import json
from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ftune.core.errors import ModelError
from ftune.merge.engines.joined import join_adapters, truncated_product
from ftune.merge.engines.joined_sources import Factors
from ftune.peft.adapters import load_adapter

IDS = torch.tensor([[5, 9, 13, 21, 34, 55, 89, 144]])
WEIGHTS = [0.75, -0.5, 1.25]

Build = Callable[[], Any]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Build:
    """The tiny model with a head of its own, so that an update of the embeddings is one of the embeddings only."""
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("untied")
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig.from_pretrained(tiny_model, tie_word_embeddings=False)).save_pretrained(folder)
    return partial(deepcopy, AutoModelForCausalLM.from_pretrained(folder))


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory, base: Build) -> list[Path]:
    """Three adapters of different layers, ranks and scales."""
    settings: list[dict[str, Any]] = [
        {"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "v_proj", "lm_head"], "use_rslora": True},
        {
            "r": 3,
            "lora_alpha": 9,
            "target_modules": ["q_proj", "up_proj", "embed_tokens"],
            "rank_pattern": {"up_proj": 5, "layers.1.self_attn.q_proj": 2},
            "alpha_pattern": {"up_proj": 2.5, "model.embed_tokens": 4},
        },
        {"r": 2, "target_modules": ["q_proj", "up_proj", "down_proj"], "layers_to_transform": [1]},
    ]
    root = tmp_path_factory.mktemp("adapters")
    return [write(base(), root / str(seed), seed, **keys) for seed, keys in enumerate(settings)]


def write(model: Any, folder: Path, seed: int = 0, **keys: Any) -> Path:
    """A LoRA adapter of random factors."""
    from peft import LoraConfig, get_peft_model

    wrapped: Any = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **keys))
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in wrapped.named_parameters():
        if ".lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.2
    wrapped.save_pretrained(folder)
    return folder


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.eval()(IDS).logits
    return found


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).abs().max() / wanted.abs().max())


def joined(folders: Sequence[Path], weights: Sequence[float], target: Path, rank: int | None = None) -> Path:
    target.mkdir()
    join_adapters(folders, weights, target, rank)
    return target


def with_sum(build: Build, folders: Sequence[Path], weights: Sequence[float]) -> Any:
    """The base with what each adapter's model merged by peft differs from it, times the adapter's weight."""
    wanted, untouched = build(), build().state_dict()
    total = wanted.state_dict()
    for folder, weight in zip(folders, weights, strict=True):
        for name, tensor in load_adapter(build(), folder).merge_and_unload().state_dict().items():
            total[name] += weight * (tensor - untouched[name])
    return wanted


def test_the_exact_sum_gives_the_logits_of_the_weighted_updates(
    base: Build, adapters: list[Path], tmp_path: Path
) -> None:
    folder = joined(adapters, WEIGHTS, tmp_path / "cat")
    wanted = logits(with_sum(base, adapters, WEIGHTS))
    assert relative(logits(base()), wanted) > 0.1
    assert relative(logits(load_adapter(base(), folder)), wanted) < 1e-5
    assert sorted(path.name for path in folder.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]


def test_the_new_adapter_has_all_ranks_and_no_scale(adapters: list[Path], tmp_path: Path) -> None:
    folder = joined(adapters, WEIGHTS, tmp_path / "cat")
    config = json.loads((folder / "adapter_config.json").read_text())
    ranks = {
        name.removeprefix("base_model.model.").split(".lora_")[0]: len(tensor)
        for name, tensor in load_file(folder / "adapter_model.safetensors").items()
        if "lora_A" in name or "lora_embedding_A" in name
    }
    assert ranks["model.layers.0.self_attn.q_proj"] == 4 + 3
    assert ranks["model.layers.1.self_attn.q_proj"] == 4 + 2 + 2
    assert ranks["model.layers.0.mlp.up_proj"] == 5
    assert ranks["model.embed_tokens"] == 3
    assert set(config["target_modules"]) == ranks.keys()
    assert {name: config["rank_pattern"].get(f"^{name}", config["r"]) for name in ranks} == ranks
    assert (config["lora_alpha"], config["alpha_pattern"]) == (config["r"], config["rank_pattern"])
    assert config["use_rslora"] is False


def test_svd_of_full_rank_is_the_exact_sum_and_of_rank_2_its_nearest(
    base: Build, adapters: list[Path], tmp_path: Path
) -> None:
    exact, full, cut = (joined(adapters, WEIGHTS, tmp_path / str(rank), rank) for rank in (None, 64, 2))
    wanted = logits(load_adapter(base(), exact))
    assert relative(logits(load_adapter(base(), full)), wanted) < 1e-5
    sums, cuts = (load_file(folder / "adapter_model.safetensors") for folder in (exact, cut))
    for name, a in cuts.items():
        if ".lora_A." in name:
            other = name.replace(".lora_A.", ".lora_B.")
            u, values, v = np.linalg.svd((sums[other].double() @ sums[name].double()).numpy())
            nearest = (u[:, :2] * values[:2]) @ v[:2]
            np.testing.assert_allclose((cuts[other] @ a).numpy(), nearest, atol=1e-5 * values[0])
    assert relative(logits(load_adapter(base(), cut)), wanted) > 1e-3


def test_a_joined_adapter_joins_again(base: Build, adapters: list[Path], tmp_path: Path) -> None:
    both = joined(adapters[:2], WEIGHTS[:2], tmp_path / "both")
    all_three = joined([both, adapters[2]], [1.0, WEIGHTS[2]], tmp_path / "all")
    wanted = logits(with_sum(base, adapters, WEIGHTS))
    assert relative(logits(load_adapter(base(), all_three)), wanted) < 1e-5


@pytest.mark.parametrize(("out", "width", "ranks"), [(3, 9, 5), (9, 3, 5), (9, 8, 4)])
def test_the_nearest_product_has_at_most_the_possible_rank(out: int, width: int, ranks: int) -> None:
    a, b = torch.randn(ranks, width), torch.randn(out, ranks)
    found = truncated_product(Factors(a, b), 100)
    assert len(found.a) == found.b.shape[1] == min(out, width, ranks)
    torch.testing.assert_close(found.b @ found.a, b @ a, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"use_dora": True}, "DoRA rescales"),
        ({"modules_to_save": ["lm_head"]}, "trained in full"),
        ({"trainable_token_indices": [1, 2]}, "trained in full"),
        ({"bias": "lora_only"}, "'bias: lora_only'"),
        ({"lora_bias": True}, "lora_bias"),
        ({"target_parameters": ["experts.gate_up_proj"]}, "target_parameters"),
        ({"init_lora_weights": "pissa_niter_16"}, "'init_lora_weights: pissa_niter_16' changed"),
        ({"peft_type": "LOHA"}, "its method is 'LOHA', not LoRA"),
        ({"made_up": 1}, "'made_up: 1'"),
    ],
)
def test_what_has_no_low_rank_sum_is_refused(
    adapters: list[Path], tmp_path: Path, keys: dict[str, object], said: str
) -> None:
    folder = copied(adapters[0], tmp_path / "other", **keys)
    with pytest.raises(ModelError, match=r"one LoRA adapter; use 'save: model'") as raised:
        joined([adapters[1], folder], [1.0, 1.0], tmp_path / "out")
    assert said in str(raised.value)
    assert str(raised.value).startswith(str(folder))
    assert not list((tmp_path / "out").iterdir())


def copied(source: Path, target: Path, **keys: object) -> Path:
    """The adapter again, with other settings."""
    target.mkdir()
    config = json.loads((source / "adapter_config.json").read_text())
    (target / "adapter_config.json").write_text(json.dumps(config | keys))
    (target / "adapter_model.safetensors").write_bytes((source / "adapter_model.safetensors").read_bytes())
    return target


def test_adapters_of_different_bases_are_refused_and_of_an_unknown_base_accepted(
    adapters: list[Path], tmp_path: Path
) -> None:
    one, two = (copied(adapters[0], tmp_path / name, base_model_name_or_path=f"org/{name}") for name in ("a", "b"))
    unknown = copied(adapters[0], tmp_path / "unknown", base_model_name_or_path="")
    with pytest.raises(ModelError, match=r"is 'org/b', and that of .* is 'org/a'"):
        joined([unknown, one, two], [1.0] * 3, tmp_path / "out")
    config = json.loads((joined([unknown, two], [1.0] * 2, tmp_path / "fits") / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "org/b"


def test_layers_of_different_shapes_are_refused(adapters: list[Path], tmp_path: Path) -> None:
    other = copied(adapters[0], tmp_path / "other")
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    tensors = load_file(other / "adapter_model.safetensors")
    save_file(tensors | {name: torch.zeros(4, 48)}, other / "adapter_model.safetensors")
    with pytest.raises(ModelError, match=r"layers\.0\.self_attn\.q_proj' has the shape \(32, 48\).* \(32, 32\)"):
        joined([adapters[0], other], [1.0, 1.0], tmp_path / "out")


def test_other_embeddings_beside_the_factors_are_refused(adapters: list[Path], tmp_path: Path) -> None:
    other = copied(adapters[1], tmp_path / "other")
    name = "base_model.model.model.embed_tokens.base_layer.weight"
    tensors = load_file(other / "adapter_model.safetensors")
    save_file(tensors | {name: tensors[name] + 1}, other / "adapter_model.safetensors")
    with pytest.raises(ModelError, match=r"embed_tokens' differs"):
        joined([adapters[1], other], [1.0, 1.0], tmp_path / "out")


def test_embeddings_beside_the_factors_stay_whether_or_not_they_have_an_adapter(
    base: Build, adapters: list[Path], tmp_path: Path
) -> None:
    """Peft writes the embeddings of a changed vocabulary under another name where they have no adapter."""
    plain = copied(adapters[2], tmp_path / "plain")
    grown = base().get_input_embeddings().weight.detach().bfloat16().float() * 2
    name = "base_model.model.model.embed_tokens"
    save_file(
        load_file(plain / "adapter_model.safetensors") | {f"{name}.weight": grown}, plain / "adapter_model.safetensors"
    )
    targeted = copied(adapters[1], tmp_path / "targeted")
    tensors = load_file(targeted / "adapter_model.safetensors")
    save_file(tensors | {f"{name}.base_layer.weight": grown.bfloat16()}, targeted / "adapter_model.safetensors")

    alone = load_file(joined([plain], [1.0], tmp_path / "alone") / "adapter_model.safetensors")
    assert torch.equal(alone[f"{name}.weight"], grown)
    both = joined([plain, targeted], [0.5, 0.5], tmp_path / "both")
    assert f"{name}.weight" not in load_file(both / "adapter_model.safetensors")
    assert torch.equal(load_adapter(base(), both).get_input_embeddings().base_layer.weight, grown)


@pytest.mark.parametrize(
    "damage",
    ["no config", "no JSON", "a list", "a contradiction", "no weights", "half of the weights", "no B", "none", "NaN"],
)
def test_damaged_adapters_are_named(adapters: list[Path], tmp_path: Path, damage: str) -> None:
    other = copied(adapters[0], tmp_path / "other")
    config, weights = other / "adapter_config.json", other / "adapter_model.safetensors"
    tensors = load_file(weights)
    if damage in ("no config", "no weights"):
        (config if damage == "no config" else weights).unlink()
    elif damage in ("no JSON", "a list"):
        config.write_text("{" if damage == "no JSON" else "[]")
    elif damage == "a contradiction":
        config.write_text(json.dumps({"peft_type": "LORA", "target_modules": "q_proj", "layers_to_transform": [1]}))
    elif damage == "half of the weights":
        weights.write_bytes(weights.read_bytes()[:5000])
    elif damage == "NaN":
        next(iter(tensors.values()))[0] = torch.nan
        save_file(tensors, weights)
    else:
        kept = {name: tensor for name, tensor in tensors.items() if "lora_A" in name and damage == "no B"}
        save_file(kept, weights)
    with pytest.raises(ModelError) as raised:
        joined([adapters[1], other], [1.0, 1.0], tmp_path / "out")
    assert str(raised.value).startswith(str(other))
    assert "\n" not in str(raised.value)
