"""What methods keep for the backward pass is what they say: seen on a tiny Llama, in fp32, without a trainer."""

import weakref
from typing import Any

import pytest
import torch

from ftune.peft.base import PeftMethod
from ftune.peft.library_memory import DENSE
from ftune.plan.adapter import Adapter
from ftune.plan.shape import ModelShape
from tests.peft.test_planned import PLAIN, Build, build, llama_config, rarely, section, shape_of

CONFIG = llama_config(hidden_size=64, intermediate_size=160, head_dim=16)
EXACT = [
    *("bitfit", "lora", "lora, dora", "adalora", "ia3", "adamss", "beft", "boft", "c3a", "deft", "delora", "fourierft"),
    *("frod", "glora", "gralora", "hira", "hra", "lily", "loha", "lokr", "miss", "oft", "osf", "peanut", "psoft"),
    *("pvera", "randlora", "road", "shira", "supertuning", "tinylora", "unilora", "vblora", "vera", "waveft"),
]
"""Methods on linear layers, whose numbers a token are whole and known."""

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
    return build("LlamaForCausalLM", CONFIG)


class Held:
    """A tensor that autograd keeps, and the size of the memory that it lies in."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor
        self.numbers = tensor.untyped_storage().nbytes() / 4


def kept(model: Any, tokens: int) -> float:
    """Numbers of four bytes that a forward pass keeps, beside the model's own."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    held: dict[int, weakref.WeakSet[Held]] = {}

    def pack(tensor: torch.Tensor) -> object:
        if tensor.layout != torch.strided or tensor.untyped_storage().data_ptr() in own:
            return tensor
        found = Held(tensor)
        held.setdefault(tensor.untyped_storage().data_ptr(), weakref.WeakSet()).add(found)
        return found

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda found: found):
        output = model.train()(input_ids=torch.arange(tokens)[None] + 3)
    total = sum(next(iter(some)).numbers for some in held.values() if some)
    del output
    return total


def measured(found: PeftMethod, llama: Build) -> tuple[float, float]:
    """Numbers a token and layer, and those that no token adds to; what trains is moved away from zero before."""
    torch.manual_seed(0)
    model = found.wrap(llama())
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.01 * torch.randn_like(parameter)
    short, long = kept(model, 40), kept(model, 80)
    return (long - short) / 40 / CONFIG.num_hidden_layers, 2 * short - long


def beside(planned: Adapter, shape: ModelShape) -> float:
    """Numbers a token and layer that a method keeps; layers that read the same share their input."""
    widths = dict(planned.low_rank)
    # the layer behind attention reads what attention keeps
    inputs = {
        (linear.reads, linear.name.partition(".")[0]): linear.inputs
        for linear in shape.layer_linears
        if linear.name in widths and linear.reads != "attention"
    }
    return sum(inputs.values()) + sum(widths.values()) + planned.saved


@pytest.mark.parametrize("case", rarely([case for case in EXACT if case in PLAIN]))
def test_numbers_a_token_and_whole_matrices_are_those_said(case: str, llama: Build) -> None:
    shape = shape_of(CONFIG)
    model, _ = measured(PLAIN["bitfit"], llama)  # which keeps nothing of its own
    further = [section({"type": case, **FURTHER[case]})] if case in FURTHER else []
    for found in (PLAIN[case], *further):
        a_token, whole = measured(found, llama)
        assert a_token == pytest.approx(model + beside(found.planned(shape), shape), abs=1)
        if case in DENSE and found.dense(shape):  # the first layer needs no gradient of its input, and keeps less
            assert 0.98 < found.dense(shape) / whole < 1.2
        else:
            assert whole < 0.45 * shape.layers * shape.layer_weights
