"""Bytes of stored weights and of optimisers' states, against bitsandbytes and the optimisers themselves."""

from dataclasses import replace

import pytest
import torch
from transformers import Adafactor

from ftune.plan.adapter import Adapter
from ftune.plan.buckets import resident_buckets
from ftune.plan.families import shape_of_config
from ftune.plan.job import Job, Spread
from ftune.plan.shape import ModelShape
from ftune.plan.states import moment_bytes, states
from ftune.plan.weights import copies, nf4_bytes, stored_bytes
from ftune.trainers.adamw_bf16 import AdamWBf16

SHAPE: ModelShape = shape_of_config(
    {
        "model_type": "llama",
        "hidden_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 768,
        "vocab_size": 512,
        "tie_word_embeddings": False,
    }
)


@pytest.mark.parametrize("numbers", [64, 640, 256 * 300])
@pytest.mark.parametrize("double_quant", [True, False])
def test_nf4_takes_what_bitsandbytes_makes(numbers: int, double_quant: bool) -> None:
    from bitsandbytes.functional import quantize_4bit

    packed, state = quantize_4bit(torch.randn(numbers), quant_type="nf4", compress_statistics=double_quant)
    tensors = [packed, state.absmax, *([state.state2.absmax] if double_quant else [])]
    assert nf4_bytes(numbers, double_quant=double_quant) == sum(each.numel() * each.element_size() for each in tensors)


def test_double_quantisation_is_0_127_bits_a_number() -> None:
    numbers = 2**24
    assert 8 * nf4_bytes(numbers) / numbers - 4 == pytest.approx(0.127, abs=0.0005)
    assert 8 * nf4_bytes(numbers, double_quant=False) / numbers - 4 == pytest.approx(0.5)


def test_embeddings_norms_and_head_are_not_quantised() -> None:
    outside = 2 * (2 * 512 * 256 + 5 * 256)
    inside = SHAPE.layers * SHAPE.layer_weights
    assert stored_bytes(SHAPE, "bf16", "none", double_quant=True) == 2 * SHAPE.parameters == outside + 2 * inside
    nf4 = stored_bytes(SHAPE, "bf16", "nf4", double_quant=True) - outside
    assert nf4 == pytest.approx(inside * (4 + 8 / 64 + 32 / (64 * 256)) / 8, rel=0.001)
    rows = SHAPE.layers * sum(linear.outputs for linear in SHAPE.layer_linears)
    assert stored_bytes(SHAPE, "bf16", "int8", double_quant=True) - outside == inside + 4 * rows


def test_adafactor_keeps_a_row_and_a_column() -> None:
    value = torch.nn.Parameter(torch.randn(48, 80))
    optimizer = Adafactor([value], scale_parameter=False, relative_step=False, lr=1e-3)
    value.grad = torch.randn_like(value)
    optimizer.step()
    kept = [each for each in optimizer.state[value].values() if torch.is_tensor(each) and each.dim()]
    assert sum(each.numel() * each.element_size() for each in kept) == moment_bytes("adafactor", 48 * 80, 48 + 80)


def test_adamw_keeps_two_moments_and_the_8_bit_one_a_quarter() -> None:
    value = torch.nn.Parameter(torch.randn(64, 128))
    optimizer = torch.optim.AdamW([value])
    value.grad = torch.randn_like(value)
    optimizer.step()
    kept = [each for each in optimizer.state[value].values() if torch.is_tensor(each) and each.dim()]
    assert sum(each.numel() * each.element_size() for each in kept) == moment_bytes("adamw", 64 * 128, 0)
    assert moment_bytes("adamw_8bit", 64 * 128, 0) == 2 * (64 * 128 + 4 * 64 * 128 // 256)
    assert moment_bytes("sgd", 64 * 128, 192) == 0


def test_a_whole_model_in_bf16_takes_8_bytes_a_parameter_and_no_copies() -> None:
    job = Job(shape=SHAPE, adapter=Adapter(base=SHAPE.parameters), optimizer="adamw_bf16")
    kept, value = states(job), torch.nn.Parameter(torch.randn(64, 128).bfloat16())
    assert kept.weights + kept.masters + kept.gradients + kept.moments == 8 * SHAPE.parameters
    assert (copies(job), job.stream_width) == (0, 2)
    value.grad = torch.randn_like(value)
    optimizer = AdamWBf16([value], 1e-3)
    optimizer.step()
    held = [value, value.grad, *(each for each in optimizer.state[value].values() if torch.is_tensor(each))]
    assert sum(each.numel() * each.element_size() for each in held) == 8 * 64 * 128
    beside = replace(job, spread=Spread(type="ddp", processes=2))
    assert resident_buckets(beside) == 2 * SHAPE.parameters


def test_paged_states_are_outside_but_for_small_matrices() -> None:
    adapter = Adapter(parameters=2 * 512 * (256 + 768), low_rank=(("mlp.gate_proj", 512),))
    paged = states(Job(shape=SHAPE, adapter=adapter, optimizer="paged_adamw"))
    assert (paged.moments, paged.host) == (0, 8 * adapter.parameters)
    small = Adapter(parameters=2 * 4 * (256 + 768), low_rank=(("mlp.gate_proj", 4),))
    kept = states(Job(shape=SHAPE, adapter=small, optimizer="paged_adamw"))
    assert (kept.moments, kept.host) == (8 * small.parameters, 0)


def test_trained_embeddings_keep_fp32_moments_with_8_bit_optimisers() -> None:
    job = Job(shape=SHAPE, adapter=Adapter(base=SHAPE.parameters), optimizer="adamw_8bit")
    rest = SHAPE.parameters - SHAPE.embedding_parameters
    assert states(job).moments == pytest.approx(8 * SHAPE.embedding_parameters + 2 * rest * (1 + 4 / 256), rel=0.001)
