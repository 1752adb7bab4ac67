"""What selective checkpointing keeps, by name; tests/speed/test_selective.py holds the sums against tensors."""

from dataclasses import replace
from typing import Any

import pytest

from ftune.plan.adapter import Adapter
from ftune.plan.families import shape_of_config
from ftune.plan.job import Job, Spread
from ftune.plan.selected import kept, knows_selected, selected
from tests.plan.test_activations import BLOOM, GEMMA2, GPT2, LLAMA, OPT, PHI3


def job_of(config: dict[str, Any], **given: Any) -> Job:
    shape = shape_of_config(config)
    return Job(shape=shape, adapter=Adapter(base=shape.parameters), checkpointing="selective", **given)


@pytest.mark.parametrize(
    ("config", "products"),
    [
        (LLAMA, {"self_attn.q_proj": 128, "self_attn.k_proj": 64, "self_attn.v_proj": 64}),
        (PHI3, {"self_attn.qkv_proj": 256}),
        (OPT, {"self_attn.k_proj": 128, "self_attn.v_proj": 128, "self_attn.q_proj": 128}),
        (GPT2, {"attn.c_attn": 384}),
        (BLOOM, {"self_attention.query_key_value": 384}),
    ],
)
def test_products_ahead_of_attention_and_attention_are_kept(config: dict[str, Any], products: dict[str, int]) -> None:
    """Of 4 heads of 16 in bf16: 128 bytes of results, and 4 fp32 numbers."""
    job = job_of(config, tokens=10, micro_batch_size=3)
    assert selected(job) == {**products, "attention": 128 + 16}
    assert kept(job) == 30 * (sum(products.values()) + 144)
    assert kept(replace(job, checkpointing=True)) == kept(replace(job, checkpointing=False)) == 0


def test_adapters_are_kept_beside_their_layers_or_in_their_product() -> None:
    names = ["self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj"]
    lora = Adapter(parameters=1, low_rank=tuple((name, 8) for name in names))
    job = replace(job_of(LLAMA), adapter=lora)
    assert selected(job) == {
        "self_attn.q_proj": 128,
        "self_attn.q_proj, adapter": 16 + 128,
        "self_attn.k_proj": 64,
        "self_attn.v_proj": 64,
        "self_attn.v_proj, adapter": 16 + 64,
        "attention": 144,
    }
    assert selected(replace(job, folded=True)) == {
        "self_attn.q_proj + self_attn.v_proj": 128 + 64 + 128,  # a GPU's 64 columns
        "self_attn.k_proj": 64,
        "attention": 144,
    }


def test_it_is_known_of_plain_layers_alone() -> None:
    job = job_of(LLAMA)
    assert knows_selected(job)
    others: list[dict[str, Any]] = [{"dense": 5}, {"quantization": "int8"}, {"attention": "eager"}]
    others += [{"adapter": Adapter(parameters=1, saved=3.0)}, {"shape": shape_of_config(GEMMA2)}]
    assert not any(knows_selected(replace(job, **other)) for other in others)
    assert knows_selected(replace(job, quantization="nf4", spread=Spread(type="ddp", processes=2)))
