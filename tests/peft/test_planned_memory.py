"""What methods keep for the backward pass is what they say: seen on a tiny Llama in bf16, with adapters in fp32."""

import weakref
from typing import Any

import pytest
import torch

from ftune.peft.base import PeftMethod
from ftune.plan.adapter import Adapter
from ftune.plan.estimate import estimate
from ftune.plan.job import Job
from ftune.plan.shape import ModelShape
from tests.peft.test_planned import PLAIN, Build, build, llama_config, rarely, section, shape_of

CONFIG = llama_config(hidden_size=64, intermediate_size=160, head_dim=16)
FP32, BF16 = 4, 2
EXACT = [
    *("bitfit", "lora", "lora, dora", "adalora", "ia3", "adamss", "beft", "boft", "c3a", "deft", "delora", "fourierft"),
    *("frod", "glora", "gralora", "hira", "hra", "lily", "loha", "lokr", "miss", "oft", "osf", "peanut", "psoft"),
    *("pvera", "randlora", "road", "shira", "supertuning", "tinylora", "unilora", "vblora", "vera", "waveft"),
]
"""Methods on linear layers, whose bytes a token are whole and known."""

FURTHER: dict[str, dict[str, Any]] = {
    "miss": {"r": 8, "init_weights": "bat"},
    "boft": {"boft_block_size": 8},
    "hra": {"r": 4},
    "osf": {"effective_rank": 0.75},
    "randlora": {"r": 8},
    "gralora": {"r": 8, "hybrid_r": 4},
}
"""Settings that the first ones are held against too."""


@pytest.fixture(scope="module")
def llama() -> Build:
    return lambda: build("LlamaForCausalLM", CONFIG)().to(torch.bfloat16)


class Held:
    """A tensor that autograd keeps, and the size of the memory that it lies in."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor
        self.bytes = tensor.untyped_storage().nbytes()


def kept(model: Any, tokens: int) -> int:
    """Bytes that a forward pass keeps in mixed precision, beside the model's own.

    Of what methods use, autocast computes softmax and sums in fp32 on GPUs alone: a few numbers for each rank.
    """
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    held: dict[int, weakref.WeakSet[Held]] = {}

    def pack(tensor: torch.Tensor) -> object:
        if tensor.layout != torch.strided or tensor.untyped_storage().data_ptr() in own:
            return tensor
        found = Held(tensor)
        held.setdefault(tensor.untyped_storage().data_ptr(), weakref.WeakSet()).add(found)
        return found

    saving = torch.autograd.graph.saved_tensors_hooks(pack, lambda found: found)
    with saving, torch.autocast("cpu", dtype=torch.bfloat16):
        output = model.train()(input_ids=torch.arange(tokens)[None] + 3)
    total = sum(next(iter(some)).bytes for some in held.values() if some)
    del output
    return total


def measured(found: PeftMethod, llama: Build) -> tuple[float, float]:
    """Bytes a token and layer, and those that no token adds to; what trains is moved away from zero before."""
    torch.manual_seed(0)
    model = found.wrap(llama())
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.01 * torch.randn_like(parameter)
    short, long = kept(model, 40), kept(model, 80)
    return (long - short) / 40 / CONFIG.num_hidden_layers, 2 * short - long


def beside(planned: Adapter, shape: ModelShape) -> float:
    """Bytes a token and layer that a method keeps; without copies in fp32, layers that read the same share their input.

    What makes a weight anew reads what attention keeps.
    """
    widths, shares = dict(planned.low_rank), planned.shares_inputs
    inputs = {
        (linear.reads, linear.name.partition(".")[0]) if shares else (linear.name, ""): linear.inputs
        for linear in shape.layer_linears
        if linear.name in widths and not (shares and linear.reads == "attention")
    }
    return BF16 * (sum(inputs.values()) + sum(widths.values()) + planned.saved) + FP32 * planned.saved_fp32


def dense(found: PeftMethod, shape: ModelShape) -> int:
    """Bytes that no token adds to: whole matrices, and autocast's copies of what trains."""
    return BF16 * found.dense(shape) + FP32 * found.planned(shape).dense_fp32


@pytest.mark.parametrize("case", rarely([case for case in EXACT if case in PLAIN]))
def test_bytes_a_token_and_of_whole_matrices_are_those_said(case: str, llama: Build) -> None:
    shape = shape_of(CONFIG)
    model, _ = measured(PLAIN["bitfit"], llama)  # which keeps nothing of its own
    further = [section({"type": case, **FURTHER[case]})] if case in FURTHER else []
    for found in (PLAIN[case], *further):
        a_token, whole = measured(found, llama)
        assert a_token == pytest.approx(model + beside(found.planned(shape), shape), abs=1)
        said, copies = dense(found, shape), BF16 * found.planned(shape).parameters
        weights = BF16 * shape.layers * shape.layer_weights
        # the first layer needs no gradient of its input, and keeps less; short vectors are left out
        assert 0.87 * said < whole + 1
        assert whole <= 1.03 * (said + copies) + 0.15 * weights


MEASURED: list[tuple[dict[str, Any], int, int, float]] = [
    ({"type": "lora", "dora": True}, 2, 1024, 9.45),
    ({"type": "vera"}, 2, 1024, 6.87),
    ({"type": "loha"}, 2, 512, 6.04),
    ({"type": "ia3"}, 3, 640, 5.82),
    ({"type": "adapter"}, 2, 1024, 5.32),
    ({"type": "boft"}, 1, 512, 17.52),
]
"""Rows, tokens of a row and the peak in GiB of `ftune sft` on an H100, with the shape of Llama-3.2-1B in bf16."""


@pytest.mark.parametrize(("settings", "rows", "tokens", "gib"), MEASURED, ids=str)
def test_peaks_are_those_of_a_gpu(settings: dict[str, Any], rows: int, tokens: int, gib: float) -> None:
    sizes = {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "vocab_size": 128256}
    shape = shape_of(llama_config(**sizes, num_attention_heads=32, num_key_value_heads=8, head_dim=64))
    found = section(settings)
    batch = {"micro_batch_size": rows, "tokens": tokens, "equal_rows": True}
    job = Job(shape=shape, adapter=found.planned(shape), dense=found.dense(shape), **batch)
    assert estimate(job).peak / 2**30 == pytest.approx(gib, rel=0.02)
