"""Every method that can be merged, merged as a stream of tensors: the result computes what its adapter does."""

import json
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from ftune.peft.base import Material
from ftune.recipes.base import RunOptions
from ftune.recipes.merge import MergeRecipe
from tests.contract.cases import method
from tests.contract.test_peft import able, logits, relative, trained

MERGEABLE = [case for case in able("merge") if method(case).library == "peft"]

Merge = Callable[..., Path]


@pytest.fixture(scope="module")
def base(tiny_model: Path) -> Callable[[], Any]:
    from transformers import AutoModelForCausalLM

    return partial(deepcopy, AutoModelForCausalLM.from_pretrained(tiny_model))


@pytest.fixture
def merge(tiny_model: Path, tmp_path: Path) -> Merge:
    """Merges the adapter in `tmp_path / "adapter"` into a base, by default the tiny model; gives the new folder."""

    def merged(base: Path = tiny_model, **keys: Any) -> Path:
        output = tmp_path / "merged"
        settings = {"sources": str(tmp_path / "adapter"), "base": str(base), "output": str(output), "verify": None}
        MergeRecipe.model_validate(settings | keys).execute(RunOptions("", "ftune merge", overwrite=True))
        return output

    return merged


def adapted(case: str, build: Callable[[], Any], tiny_model: Path, folder: Path, steps: int = 4) -> torch.Tensor:
    """Logits of a model that was trained by the method of a case; its adapter is written to `folder`."""
    from transformers import AutoTokenizer

    generator = torch.Generator().manual_seed(7)
    rows = torch.randint(3, 300, (8, 24), generator=generator).tolist()
    torch.manual_seed(6)
    model: Any = method(case).wrap(build(), Material(AutoTokenizer.from_pretrained(tiny_model), str(tiny_model), rows))
    trained(model, case, steps=steps)
    found = logits(model)
    method(case).export(model, folder)
    return found


def opened(folder: Path, **options: Any) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, **options)


def headers(folder: Path) -> dict[str, tuple[str, list[int]]]:
    """Dtype and shape of each tensor; a name that is in two files fails."""
    found: dict[str, tuple[str, list[int]]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - not a mapping
                assert name not in found
                part = tensors.get_slice(name)
                found[name] = part.get_dtype(), part.get_shape()
    return found


@pytest.mark.parametrize("case", MERGEABLE)
def test_merged_as_a_stream_it_gives_the_logits_of_the_adapter(
    case: str, base: Callable[[], Any], merge: Merge, tiny_model: Path, tmp_path: Path
) -> None:
    wanted = adapted(case, base, tiny_model, tmp_path / "adapter")
    assert relative(logits(base()), wanted) > 1e-4
    folder = merge()
    assert relative(logits(opened(folder)), wanted) < 1e-5
    assert headers(tiny_model).items() <= headers(folder).items()


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
@pytest.mark.parametrize("case", ["lora, dora", "ia3", "oft"])
def test_weights_are_rounded_once(
    case: str, dtype: str, base: Callable[[], Any], merge: Merge, tiny_model: Path, tmp_path: Path
) -> None:
    adapted(case, base, tiny_model, tmp_path / "adapter")
    exact = load_file(merge() / "model.safetensors")
    rounded = load_file(merge(dtype=dtype) / "model.safetensors")
    target = {"bf16": torch.bfloat16, "fp16": torch.float16}[dtype]
    assert all(torch.equal(value, exact[name].to(target)) for name, value in rounded.items())
    assert json.loads((tmp_path / "merged/config.json").read_text())["dtype"] == str(target).removeprefix("torch.")


def test_a_base_in_bf16_keeps_its_dtype_and_is_summed_in_fp32(
    base: Callable[[], Any], merge: Merge, tiny_model: Path, tmp_path: Path
) -> None:
    half = base().to(torch.bfloat16)
    half.save_pretrained(tmp_path / "base")
    adapted("lora", base, tiny_model, tmp_path / "adapter")
    before = load_file(tmp_path / "base/model.safetensors")
    folder = merge(tmp_path / "base")
    after = load_file(folder / "model.safetensors")
    adapter = load_file(tmp_path / "adapter/adapter_model.safetensors")
    scale = method("lora").alpha / method("lora").rank  # type: ignore[attr-defined]
    changed = 0
    for name, value in after.items():
        pair = [adapter.get(f"base_model.model.{name.removesuffix('.weight')}.lora_{side}.weight") for side in "AB"]
        wanted = before[name]
        if pair[0] is not None and pair[1] is not None:
            wanted = (before[name].float() + scale * pair[1] @ pair[0]).to(torch.bfloat16)
            changed += 1
        assert value.dtype == torch.bfloat16
        assert (value.float() - wanted.float()).abs().max() <= 2**-8 * wanted.float().abs().max()
        assert (value != wanted).float().mean() < 1e-3  # sums of products in another order, at the edge of rounding
    assert changed == 14


def test_a_base_in_shards_and_a_result_in_smaller_ones(
    base: Callable[[], Any], merge: Merge, tiny_model: Path, tmp_path: Path
) -> None:
    base().save_pretrained(tmp_path / "base", max_shard_size="30KB")
    assert len(list((tmp_path / "base").glob("*.safetensors"))) > 2
    wanted = adapted("lora", base, tiny_model, tmp_path / "adapter")
    folder = merge(tmp_path / "base", max_shard_size="20KB")
    files = sorted(folder.glob("*.safetensors"))
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == {file.name for file in files}
    assert index["metadata"]["total_size"] == sum(
        value.numel() * value.element_size() for file in files for value in load_file(file).values()
    )
    assert headers(folder) == headers(tmp_path / "base")
    assert relative(logits(opened(folder)), wanted) < 1e-5


@pytest.mark.parametrize("targets", [["lm_head"], ["embed_tokens"], ["lm_head", "embed_tokens", "q_proj"]])
def test_an_update_of_one_of_two_tied_layers_unties_them(
    targets: list[str], base: Callable[[], Any], merge: Merge, tiny_model: Path, tmp_path: Path
) -> None:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(3)
    model: Any = get_peft_model(base(), LoraConfig(r=4, target_modules=targets, init_lora_weights=False))
    wanted = logits(model)
    model.save_pretrained(tmp_path / "adapter")
    assert "lm_head.weight" not in headers(tiny_model)
    folder = merge()
    assert relative(logits(opened(folder)), wanted) < 1e-5
    assert json.loads((folder / "config.json").read_text())["tie_word_embeddings"] is False
    assert "lm_head.weight" in headers(folder)


def test_tied_layers_that_change_alike_stay_tied(base: Callable[[], Any], merge: Merge, tmp_path: Path) -> None:
    from peft import TrainableTokensConfig, get_peft_model

    model: Any = get_peft_model(base(), TrainableTokensConfig(token_indices=[5, 13, 55]))
    for name, parameter in model.named_parameters():
        if "delta" in name:
            parameter.data += 0.5
    wanted = logits(model)
    model.save_pretrained(tmp_path / "adapter")
    folder = merge()
    assert relative(logits(opened(folder)), wanted) < 1e-5
    assert json.loads((folder / "config.json").read_text())["tie_word_embeddings"] is True
    assert "lm_head.weight" not in headers(folder)


@pytest.mark.parametrize("tied", [True, False])
def test_a_larger_vocabulary_travels_with_the_adapter(
    tied: bool, base: Callable[[], Any], merge: Merge, tmp_path: Path
) -> None:
    from peft import LoraConfig, get_peft_model

    plain = base()
    if not tied:
        plain.config.tie_word_embeddings = False
        plain.lm_head.weight = torch.nn.Parameter(plain.lm_head.weight.detach().clone() * 1.5)
    plain.save_pretrained(tmp_path / "base")
    more = plain.config.vocab_size + 7
    plain.resize_token_embeddings(more)
    torch.manual_seed(3)
    model: Any = get_peft_model(plain, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    wanted = logits(model)
    model.save_pretrained(tmp_path / "adapter", save_embedding_layers=True)
    folder = merge(tmp_path / "base")
    result = opened(folder)
    assert result.config.vocab_size == more
    assert result.config.tie_word_embeddings is tied
    assert relative(logits(result), wanted) < 1e-5


def test_biases_of_the_base_that_trained_are_in_the_result(tiny_model: Path, merge: Merge, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(1)
    config = Qwen2Config(
        vocab_size=320, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256,
    )  # fmt: skip
    plain = Qwen2ForCausalLM(config)
    plain.save_pretrained(tmp_path / "base")
    model: Any = get_peft_model(
        plain, LoraConfig(r=4, target_modules=["q_proj", "o_proj"], init_lora_weights=False, bias="all")
    )
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.data += 0.3
    wanted = logits(model)
    model.save_pretrained(tmp_path / "adapter")
    assert relative(logits(opened(merge(tmp_path / "base"))), wanted) < 1e-5


def test_files_that_leave_out_the_name_of_the_inner_model(merge: Merge, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from safetensors.torch import save_file
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(1)
    plain = GPT2LMHeadModel(GPT2Config(vocab_size=320, n_embd=32, n_layer=2, n_head=4, n_positions=64))
    plain.save_pretrained(tmp_path / "base")
    file = tmp_path / "base/model.safetensors"
    save_file({name.removeprefix("transformer."): value for name, value in load_file(file).items()}, file)
    model: Any = get_peft_model(
        plain, LoraConfig(r=4, target_modules=["c_attn", "c_fc"], init_lora_weights=False, fan_in_fan_out=True)
    )
    wanted = logits(model)
    model.save_pretrained(tmp_path / "adapter")
    folder = merge(tmp_path / "base")
    assert headers(folder) == headers(tmp_path / "base")
    assert relative(logits(opened(folder)), wanted) < 1e-5
