"""Several sources merged by a recipe: each way to combine, of adapters and of whole models, against slow sums."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from tests.conftest import Done
from tests.merge.test_combine_references import slow_elect_and_average, slow_slerp, slow_sum, slow_trim

Tensors = dict[str, torch.Tensor]
Merge = Callable[..., Tensors]
Numbers = list[float]

LOOKED_AT = ["model.layers.0.self_attn.q_proj.weight", "model.layers.1.mlp.up_proj.weight", "model.norm.weight"]
IDS = torch.arange(3, 290, 7)[None]
WEIGHTS = [0.75, -0.5]
SHARES = [0.25, 0.75]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """Two adapters of the tiny model, which both change q_proj, and two models that are a little off it."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    root = tmp_path_factory.mktemp("several")
    for number, keys in enumerate([{"r": 4, "lora_alpha": 6}, {"r": 3, "lora_alpha": 9, "use_rslora": True}]):
        torch.manual_seed(number)
        targets = ["q_proj", ["up_proj", "down_proj"][number]]
        model: Any = AutoModelForCausalLM.from_pretrained(tiny_model)
        config = LoraConfig(target_modules=targets, init_lora_weights=False, **keys)
        get_peft_model(model, config).save_pretrained(root / f"adapter-{number}")
        shutil.copytree(tiny_model, root / f"model-{number}")
        tensors = load_file(tiny_model / "model.safetensors")
        off = {name: value + 0.05 * torch.randn(value.shape) for name, value in tensors.items()}
        save_file(off, root / f"model-{number}/model.safetensors", metadata={"format": "pt"})
    return root


@pytest.fixture
def merge(made: Path, tiny_model: Path, tmp_path: Path, ftune: Callable[..., Done]) -> Merge:
    """Merges two `adapter`s or `model`s of these weights by a recipe, and gives the tensors that were written."""

    def run(kind: str, weights: Sequence[float], combine: object, **keys: object) -> Tensors:
        sources = [{"path": str(made / f"{kind}-{number}"), "weight": one} for number, one in enumerate(weights)]
        recipe = {"type": "merge", "sources": sources, "combine": combine, "output": str(tmp_path / "merged")}
        recipe["verify"] = {"rows": 1, "max_new_tokens": 0}
        (tmp_path / "merge.yaml").write_text(yaml.safe_dump(recipe | keys))
        done = ftune("merge", tmp_path / "merge.yaml", "--overwrite")
        assert done.code == 0, done.err
        assert keys.get("save") == "adapter" or "ok: loads, and all logits" in done.err
        return {k: v for file in (tmp_path / "merged").glob("*.safetensors") for k, v in load_file(file).items()}

    return run


def updates_of(made: Path, kind: str, base: Tensors, name: str) -> list[torch.Tensor]:
    """What each source changes of a tensor of the base."""
    found = []
    for number in range(2):
        if kind == "model":
            found.append(load_file(made / f"model-{number}/model.safetensors")[name] - base[name])
            continue
        factors = load_file(made / f"adapter-{number}/adapter_model.safetensors")
        scale = [6 / 4, 9 / 3**0.5][number]
        pair = [factors.get(f"base_model.model.{name.removesuffix('weight')}lora_{side}.weight") for side in "BA"]
        both = pair[0] is not None and pair[1] is not None
        found.append(scale * pair[0] @ pair[1] if both else torch.zeros_like(base[name]))  # type: ignore[operator]
    return found


def slow_svd(updates: Sequence[torch.Tensor], weights: Sequence[float], rank: int) -> torch.Tensor:
    total = sum(weight * update.double() for weight, update in zip(weights, updates, strict=True))
    assert isinstance(total, torch.Tensor)
    if total.dim() < 2:
        return total
    u, values, v = np.linalg.svd(total.numpy(), full_matrices=False)
    return torch.from_numpy(u[:, :rank] * values[:rank] @ v[:rank])


def slow(combine: dict[str, Any], updates: list[torch.Tensor], weights: list[float]) -> torch.Tensor:
    """The combined update, in plain Python."""
    if combine["type"] == "svd":
        return slow_svd(updates, weights, combine["rank"]).float()
    lists: list[Numbers] = [update.flatten().tolist() for update in updates]
    scaled = [combine.get("scale", 1.0) * weight for weight in weights]
    found = {
        "linear": lambda: slow_sum(lists, weights),
        "cat": lambda: slow_sum(lists, weights),
        "task_arithmetic": lambda: slow_sum(lists, scaled),
        "ties": lambda: slow_elect_and_average(
            [slow_trim(one, combine["density"]) for one in lists], weights, combine.get("scale", 1.0)
        ),
        "slerp": lambda: slow_slerp(lists[0], lists[1], weights[1] / sum(weights)),
    }[combine["type"]]()
    return torch.tensor(found).reshape(updates[0].shape)


@pytest.mark.parametrize("kind", ["adapter", "model"])
@pytest.mark.parametrize(
    ("combine", "weights"),
    [
        ({"type": "linear"}, WEIGHTS),
        ({"type": "cat"}, WEIGHTS),
        ({"type": "svd", "rank": 2}, WEIGHTS),
        ({"type": "ties", "density": 0.3, "scale": 0.5}, WEIGHTS),
        ({"type": "task_arithmetic", "scale": 1.5}, WEIGHTS),
        ({"type": "slerp"}, SHARES),
    ],
    ids=lambda one: one["type"] if isinstance(one, dict) else "",
)
def test_updates_of_a_base(
    merge: Merge, made: Path, tiny_model: Path, kind: str, combine: dict[str, Any], weights: list[float]
) -> None:
    base = load_file(tiny_model / "model.safetensors")
    found = merge(kind, weights, combine, base=str(tiny_model))
    assert found.keys() == base.keys()
    for name in LOOKED_AT:
        updates = updates_of(made, kind, base, name)
        assert any(update.any() for update in updates) == (kind == "model" or "norm" not in name)
        torch.testing.assert_close(found[name], base[name] + slow(combine, updates, weights), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("combine", ["linear", "slerp"])
def test_whole_models_without_a_base(merge: Merge, made: Path, combine: str) -> None:
    found = merge("model", SHARES, combine)
    models = [load_file(made / f"model-{number}/model.safetensors") for number in range(2)]
    for name in LOOKED_AT:
        wanted = slow({"type": combine}, [model[name] for model in models], SHARES)
        torch.testing.assert_close(found[name], wanted, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("kind", ["adapter", "model"])
@pytest.mark.parametrize("combine", ["dare_linear", "dare_ties"])
def test_dropping_at_random_depends_on_the_seed_alone(
    merge: Merge, made: Path, tiny_model: Path, kind: str, combine: str
) -> None:
    base, density = load_file(tiny_model / "model.safetensors"), 0.25
    wanted = {"type": combine, "density": density}
    found = merge(kind, WEIGHTS, wanted, base=str(tiny_model), seed=3)
    again = merge(kind, WEIGHTS, wanted, base=str(tiny_model), seed=3, max_shard_size="20KB")
    other = merge(kind, WEIGHTS, wanted, base=str(tiny_model), seed=4)
    assert all(torch.equal(found[name], again[name]) for name in base)
    name = LOOKED_AT[0]
    assert not torch.equal(found[name], other[name])
    updates = updates_of(made, kind, base, name)
    one, two = (weight * update / density for weight, update in zip(WEIGHTS, updates, strict=True))
    if combine == "dare_ties":  # the mean of those that agree; alone, a source's weight cancels out
        one, two = one / abs(WEIGHTS[0]), two / abs(WEIGHTS[1])
        mean = sum(w * u / density for w, u in zip(WEIGHTS, updates, strict=True)) / sum(map(abs, WEIGHTS))
        both = torch.where(one.sign() == two.sign(), mean, one)
    else:
        both = one + two
    change = found[name] - base[name]
    possible = torch.stack([torch.zeros_like(one), one, two, both])
    nearest = (possible - change).abs().min(0).values
    assert nearest.max() < 1e-5
    share = (change == 0).float().mean()
    assert abs(share - (1 - density) ** 2) < 0.06


@pytest.mark.parametrize("combine", [{"type": "cat"}, {"type": "svd", "rank": 2}], ids=["cat", "svd"])
def test_adapters_joined_into_one(
    merge: Merge, made: Path, tiny_model: Path, tmp_path: Path, combine: dict[str, Any]
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    def opened(folder: Path) -> Any:
        return AutoModelForCausalLM.from_pretrained(folder).eval()

    merge("adapter", WEIGHTS, combine)
    with torch.inference_mode():
        wanted = opened(tmp_path / "merged")(IDS).logits
        plain = opened(tiny_model)(IDS).logits
        shutil.rmtree(tmp_path / "merged")
        merge("adapter", WEIGHTS, combine, save="adapter")
        assert json.loads((tmp_path / "merged/adapter_config.json").read_text())["peft_type"] == "LORA"
        found = PeftModel.from_pretrained(opened(tiny_model), str(tmp_path / "merged")).eval()(IDS).logits
    assert (wanted - plain).abs().max() > 0.1
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
