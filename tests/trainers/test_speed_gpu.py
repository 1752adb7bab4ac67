"""On a GPU, what makes a run fast computes in 16 bit what the plain way computes, as exactly as that does."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig, Qwen3Config

from ftune.speed import offload
from ftune.speed.flat import FlatCollator
from ftune.speed.loss import add_places
from ftune.speed.offload import offloaded_inputs
from ftune.trainers.speed import Speed, Wanted, at_speed
from ftune.trainers.speed_tasks import NEXT_TOKENS, Task

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]

SIZE: dict[str, Any] = {
    "vocab_size": 1024,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "initializer_range": 0.05,
}
CONFIGS = {"llama": LlamaConfig, "qwen3": Qwen3Config}
LENGTHS = [(300, 17, 120), (64, 500), (1, 2, 700)]


def rows_of(lengths: tuple[int, ...]) -> list[list[int]]:
    drawn = torch.Generator().manual_seed(sum(lengths))
    return [torch.randint(3, 1024, (length,), generator=drawn).tolist() for length in lengths]


def batch_of(lengths: tuple[int, ...]) -> dict[str, Any]:
    examples = [{"input_ids": row, "labels": row} for row in rows_of(lengths)]
    batch = add_places(FlatCollator(700, rounded=True)(examples))
    del batch["labels"]
    return {name: value.cuda() if torch.is_tensor(value) else value for name, value in batch.items()}


def model_of(family: str, *, full: bool, dtype: torch.dtype) -> Any:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[family](**SIZE)).to("cuda", dtype)
    return model if full else adapted(model)


def adapted(model: Any) -> Any:
    """With adapters that do something, in fp32."""
    config = LoraConfig(r=16, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    wrapped = get_peft_model(model, config)
    for parameter in wrapped.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return wrapped


def measured(model: Any, lengths: tuple[int, ...]) -> tuple[float, dict[str, torch.Tensor]]:
    model.zero_grad(set_to_none=True)
    with torch.autocast("cuda", torch.bfloat16):
        loss = model(**batch_of(lengths)).loss
    loss.backward()
    return float(loss.detach()), {name: p.grad.float() for name, p in model.named_parameters() if p.grad is not None}


def plain(model: Any, lengths: tuple[int, ...]) -> tuple[float, dict[str, torch.Tensor]]:
    """Row by row through transformers' own forward pass and loss."""
    model.zero_grad(set_to_none=True)
    total = 0.0
    for row in rows_of(lengths):
        ids = torch.tensor([row], device="cuda")
        with torch.autocast("cuda", torch.bfloat16, enabled=model.dtype != torch.float32):
            logits = model(input_ids=ids, use_cache=False).logits[0, :-1].float()
        loss = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum")
        loss.backward()
        total += float(loss.detach())
    return total, {name: p.grad.float() for name, p in model.named_parameters() if p.grad is not None}


def off(found: dict[str, torch.Tensor], exact: dict[str, torch.Tensor]) -> float:
    """Relative distance of all gradients together."""
    assert found.keys() == exact.keys()
    wide = sum(float((found[name] - value).square().sum()) for name, value in exact.items())
    return float((wide / sum(float(value.square().sum()) for value in exact.values())) ** 0.5)


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("checkpointing", [False, "selective", True, "offloaded"])
def test_as_exact_as_the_plain_way(
    monkeypatch: pytest.MonkeyPatch, family: str, full: bool, checkpointing: bool | str
) -> None:
    monkeypatch.setattr(offload, "LARGE", 2**16)
    exact = [plain(model_of(family, full=full, dtype=torch.float32), lengths) for lengths in LENGTHS]
    model = model_of(family, full=full, dtype=torch.bfloat16)
    usual = [plain(model, lengths) for lengths in LENGTHS]
    with checkpointed(model, checkpointing) as speed:
        assert (speed.compiled_layers, speed.fused_loss, speed.reasons) == (True, True, {})
        assert speed.folded_lora == (0 if full else 12)
        model.train()
        graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        for lengths, (loss, slopes), (_, rounded) in zip(LENGTHS, exact, usual, strict=True):
            found, ours = measured(model, lengths)
            assert found == pytest.approx(loss, rel=0.01)
            assert off(ours, slopes) <= 1.3 * off(rounded, slopes) + 0.005
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] - graphs <= 2  # those of the loss


@contextmanager
def checkpointed(model: Any, checkpointing: bool | str, task: Task = NEXT_TOKENS, **wanted: bool) -> Iterator[Speed]:
    """At speed, as a run has it."""
    if checkpointing in (True, "offloaded"):
        model.gradient_checkpointing_enable({"use_reentrant": False})
    away = offloaded_inputs(model) if checkpointing == "offloaded" else nullcontext()
    how = {"longest": 700, "selective": checkpointing == "selective", "wanted": Wanted(**wanted), "task": task}
    with away, at_speed(model, rows_of(LENGTHS[0]), torch.bfloat16, **how) as speed:
        yield speed


def between_passes(model: Any) -> int:
    """Bytes that a forward pass leaves for the backward pass, when it is not the first one."""
    measured(model, LENGTHS[0])
    gc.collect()  # models of tests before this one
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    with torch.autocast("cuda", torch.bfloat16):
        loss = model(**batch_of(LENGTHS[0])).loss
    torch.cuda.synchronize()
    torch.empty(1, device="cuda")  # now the allocator knows which copies are done
    held = torch.cuda.memory_allocated() - before
    loss.backward()
    return held


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("full", [False, True])
def test_what_selective_checkpointing_holds_lies_between(full: bool, compiled: bool) -> None:
    held = []
    for checkpointing in (False, "selective", True):
        model = model_of("llama", full=full, dtype=torch.bfloat16)
        with checkpointed(model, checkpointing, compiled_layers=compiled) as speed:
            assert speed.compiled_layers is compiled
            model.train()
            held.append(between_passes(model))
    tokens = batch_of(LENGTHS[0])["input_ids"].shape[1]
    off, selective, all_again = held
    assert all_again < selective < off
    low = 0 if full else 64  # columns of folded adapters, filled up
    each = 2 * (256 + 2 * 128 + low) + 2 * 256 + 4 * 4  # queries, keys, values; attention and its logarithms
    assert selective - all_again == pytest.approx(3 * tokens * each, rel=0.1)


@pytest.mark.parametrize("compiled", [False, True])
def test_offloaded_inputs_are_not_on_the_gpu_between_the_passes(
    monkeypatch: pytest.MonkeyPatch, compiled: bool
) -> None:
    monkeypatch.setattr(offload, "LARGE", 2**16)
    held = []
    for checkpointing in (True, "offloaded"):
        model = model_of("llama", full=True, dtype=torch.bfloat16)
        with checkpointed(model, checkpointing, compiled_layers=compiled):
            model.train()
            held.append(between_passes(model))
    tokens = batch_of(LENGTHS[0])["input_ids"].shape[1]
    assert held[0] - held[1] == pytest.approx(3 * tokens * 2 * 256, rel=0.1)


def test_four_bit_weights_are_folded_too(tmp_path: Any) -> None:
    pytest.importorskip("bitsandbytes")
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(LlamaConfig(**SIZE)).to(torch.bfloat16).save_pretrained(tmp_path)
    four = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    model = adapted(AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=four, device_map="cuda"))
    model.requires_grad_(False)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name)
    loss, slopes = plain(model, LENGTHS[0])
    with at_speed(model, rows_of(LENGTHS[0]), torch.bfloat16, longest=700) as speed:
        assert (speed.compiled_layers, speed.folded_lora, speed.reasons) == (True, 12, {})
        found, ours = measured(model, LENGTHS[0])
    assert found == pytest.approx(loss, rel=0.01)
    assert off(ours, slopes) <= 0.05


@pytest.mark.skipif(
    torch.cuda.is_available() and torch.cuda.get_device_capability() < (8, 9), reason="the GPU has no FP8"
)
@pytest.mark.parametrize("scales", ["tensorwise", "rowwise"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_fp8_is_as_far_off_as_it_rounds(scales: Any, dtype: torch.dtype, checkpointing: bool) -> None:
    """In one graph for batches of any size, with a GPU's own products, and gone behind."""
    pytest.importorskip("torchao")
    exact = [plain(model_of("llama", full=True, dtype=torch.float32), lengths) for lengths in LENGTHS]
    model = model_of("llama", full=True, dtype=dtype)
    parameters = list(model.parameters())
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    wanted = Wanted(fp8=scales)
    with at_speed(model, rows_of(LENGTHS[0]), torch.bfloat16, longest=700, wanted=wanted) as speed:
        assert (speed.compiled_layers, speed.fp8, speed.fp8_products, speed.reasons) == (True, scales, 21, {})
        model.train()
        graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        for lengths, (loss, slopes) in zip(LENGTHS, exact, strict=True):
            found, ours = measured(model, lengths)
            assert found == pytest.approx(loss, rel=0.01)
            assert off(ours, slopes) <= 0.3  # emulated on a CPU: 0.16 to 0.2
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] - graphs <= 2  # those of the loss
        assert all(one is other for one, other in zip(model.parameters(), parameters, strict=True))
    assert {type(module).__name__ for module in model.modules() if isinstance(module, torch.nn.Linear)} == {"Linear"}
