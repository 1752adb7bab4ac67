"""Peaks: beside those that were measured on GPUs, and never more where less is asked for."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftune.plan.adapter import Adapter
from ftune.plan.by_hand import shape_by_hand
from ftune.plan.estimate import estimate
from ftune.plan.families import shape_of_config
from ftune.plan.job import Job, Roles, Spread
from ftune.plan.shape import ModelShape
from ftune.plan.states import states

GIB = 2**30


def llama(hidden: int, layers: int, ffn: int, *, tied: bool) -> ModelShape:
    return shape_of_config(
        {
            "model_type": "llama",
            "hidden_size": hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "intermediate_size": ffn,
            "vocab_size": 128_256,
            "tie_word_embeddings": tied,
        }
    )


def lora(shape: ModelShape, rank: int) -> Adapter:
    numbers = sum(rank * (linear.inputs + linear.outputs) for linear in shape.layer_linears)
    low_rank = tuple((linear.name, rank) for linear in shape.layer_linears)
    return Adapter(parameters=shape.layers * numbers, low_rank=low_rank)


SMALL, LARGE = llama(2048, 16, 8192, tied=True), llama(4096, 32, 14_336, tied=False)
FULL: dict[str, Any] = {
    "shape": SMALL,
    "adapter": Adapter(base=SMALL.parameters),
    "micro_batch_size": 8,
    "tokens": 2048,
    "equal_rows": True,
}
EIGHT: dict[str, Any] = {
    "shape": LARGE,
    "adapter": lora(LARGE, 16),
    "micro_batch_size": 4,
    "tokens": 1024,
    "equal_rows": True,
    "checkpointing": True,
}
PPO: dict[str, Any] = {
    "kind": "ppo",
    "shape": SMALL,
    "adapter": lora(SMALL, 16),
    "micro_batch_size": 16,
    "accumulation": 8,
    "tokens": 384,
}
ROLES: dict[str, Any] = {
    "engine": "graph",
    "completions": 128,
    "at_once": 128,
    "prompt_tokens": 128,
    "new_tokens": 256,
    "reward_adapters": 11_274_240,
}


def two(kind: Any, **more: Any) -> dict[str, Spread]:
    return {"spread": Spread(type=kind, processes=2, **more)}


def row(*sizes: int, **more: Any) -> dict[str, Any]:
    """Rows and tokens of a job on the small model, LoRA unless said otherwise."""
    rows, tokens = sizes
    kept = {"shape": SMALL, "adapter": lora(SMALL, 16), "equal_rows": True}
    return {**kept, "micro_batch_size": rows, "tokens": tokens, **more}


WHOLE = {"adapter": Adapter(base=SMALL.parameters)}
SEPARATE = {**PPO, **WHOLE, "micro_batch_size": 8, "accumulation": 2, "tokens": 256}
SHORT = Roles(engine="graph", completions=32, at_once=32, prompt_tokens=128, reference="copy")

# Peaks of `torch.cuda.max_memory_allocated` in GiB, of runs on H200s and H100s that scripts/benchmarks/backends.py,
# memory_8b.py, ppo.py, plan.py and train.py made on 2026-11-22 and 23; the README has them too.
FLAT: dict[str, Any] = {"packed": True, "flat": True, "loss": "fused"}
TUNED: dict[str, Any] = {**FLAT, "tokens": 2048, "compiled": True, "folded": True, "checkpointing": True}
MEASURED = [
    (49.215, FULL),
    (53.82, {**FULL, "accumulation": 2}),
    (53.8, {**FULL, **two("ddp")}),
    (37.964, {**FULL, **two("zero", stage=1)}),
    (37.964, {**FULL, **two("zero", stage=2)}),
    (40.216, {**FULL, **two("zero", stage=3)}),
    (32.158, {**FULL, **two("zero", stage=3, optimizer="cpu")}),
    (31.022, {**FULL, **two("zero", stage=3, optimizer="cpu", parameters="cpu")}),
    (36.264, {**FULL, **two("fsdp")}),
    (37.965, {**FULL, **two("fsdp", reshard=False)}),
    (29.357, {**FULL, **two("fsdp", parameters="cpu")}),
    (119.854, {**EIGHT, "adapter": Adapter(base=LARGE.parameters)}),
    (17.806, EIGHT),
    (23.27, {**EIGHT, **TUNED, "micro_batch_size": 8}),
    (10.28, {**EIGHT, **TUNED, "micro_batch_size": 4, "accumulation": 2, "quantization": "nf4"}),
    (7.641, {**EIGHT, "quantization": "nf4", "optimizer": "paged_adamw"}),
    (21.455, {**EIGHT, "quantization": "int8"}),
    (14.38, {**PPO, "roles": Roles(**ROLES)}),
    (24.7, {**PPO, "roles": Roles(**ROLES, value="adapter")}),
    (28.82, {**SEPARATE, "roles": SHORT}),
    (43.99, {**SEPARATE, "roles": replace(SHORT, value="copy"), "checkpointing": True}),
    (25.19, row(4, 1024, **WHOLE)),
    (19.69, row(4, 2048, **WHOLE, checkpointing=True)),
    (17.34, row(4, 2048)),
    (7.63, row(4, 1024, quantization="nf4")),
    (4.25, row(8, 2048, quantization="nf4", checkpointing=True)),
    (7.48, row(4, 1024, adapter=Adapter(parameters=40_960, virtual_tokens=20))),
    (11.23, row(1, 2048, **WHOLE, optimizer="adafactor", checkpointing=True)),
    (19.78, row(4, 1024, **WHOLE, optimizer="adamw_8bit")),
    (12.60, row(2, 1024, attention="eager")),
    (10.85, row(2, 2048, packed=True)),
    (33.25, row(8, 2048, **FLAT)),
    (23.77, row(8, 2048, **FLAT, compiled=True, folded=True)),
    (5.54, row(8, 2048, **FLAT, compiled=True, folded=True, checkpointing=True)),
    (38.18, row(8, 2048, **WHOLE, **FLAT, compiled=True)),
    (20.0, row(8, 2048, **WHOLE, **FLAT, compiled=True, checkpointing=True)),
    (27.84, row(8, 2048, **WHOLE, **FLAT, compiled=True, optimizer="adamw_bf16")),
    (4.43, row(4, 1024, adapter=lora(SMALL, 128), checkpointing=True)),
    (11.20, row(8, 1024, **WHOLE, checkpointing=True, **two("fsdp"))),
    (11.32, row(4, 1024, **WHOLE, **two("zero", stage=2, optimizer="cpu"))),
    (10.02, row(4, 1024, **two("ddp"))),
    (12.54, {**EIGHT, **two("fsdp")}),
    (66.0, {**EIGHT, "adapter": Adapter(base=LARGE.parameters), "micro_batch_size": 1, **two("zero", stage=3)}),
    (17.89, {**EIGHT, "micro_batch_size": 2, "adapter": Adapter(parameters=81_920, virtual_tokens=20)}),
]


@pytest.mark.parametrize(("gib", "given"), MEASURED)
def test_peaks_are_within_five_percent_of_measured_ones(gib: float, given: dict[str, Any]) -> None:
    assert estimate(Job(**given)).peak / GIB == pytest.approx(gib, rel=0.05)


def test_parts_add_up_and_what_is_beside_counts_for_the_verdict() -> None:
    found = estimate(Job(**EIGHT))
    assert sum(found.parts.values()) == found.peak == max(phase.bytes for phase in found.phases)
    assert all(size > 0 for phase in found.phases for size in phase.parts.values())
    assert found.total == found.peak + found.reserved
    assert found.fits(found.total)
    assert not found.fits(found.total - 1)


def test_what_vllm_takes_is_not_there_for_training() -> None:
    found = estimate(Job(**PPO, roles=Roles(engine="vllm", gpu_share=0.5)))
    assert not found.fits(2 * found.total - 1)
    assert found.fits(2 * found.total)


def test_fsdp_has_the_whole_model_on_the_host_first() -> None:
    found = estimate(Job(**FULL, **two("fsdp")))
    assert found.host == {"the model, until it is split": 4 * SMALL.parameters}


def test_offloaded_weights_and_moments_are_somewhere_else() -> None:
    spread = {"type": "zero", "stage": 3, "processes": 2}
    on_host = estimate(Job(**FULL, spread=Spread(**spread, optimizer="cpu", parameters="cpu")))
    on_disk = estimate(Job(**FULL, spread=Spread(**spread, optimizer="nvme", parameters="nvme")))
    assert sum(on_host.host.values()) == 18 * SMALL.parameters // 2, "12 fp32, 4 of sums, 2 of weights"
    assert not on_host.disk
    assert sum(on_disk.disk.values()) == 14 * SMALL.parameters // 2
    frozen = estimate(Job(**EIGHT, spread=Spread(**spread, optimizer="cpu", parameters="cpu")))
    assert frozen.host["frozen weights"] == LARGE.parameters


SHAPES = st.builds(
    shape_by_hand,
    parameters=st.integers(min_value=10**9, max_value=10**11),
    layers=st.sampled_from([None, 24, 48]),
    vocab=st.sampled_from([32_000, 128_256]),
)


@st.composite
def jobs(draw: Any) -> Job:
    """Jobs of all kinds."""
    shape = draw(SHAPES)
    whole = draw(st.booleans())
    kind = draw(st.sampled_from(["sft", "sft", "rm", "ppo"]))
    kinds = ["single", "ddp", "fsdp"] if kind == "ppo" else ["single", "ddp", "zero", "fsdp"]
    roles = Roles(
        value=draw(st.sampled_from(["trunk", "copy" if whole else "adapter"])),
        reference="copy" if whole else "base",
        engine=draw(st.sampled_from(["generate", "graph"])),
        completions=64,
        at_once=draw(st.sampled_from([8, 64])),
        prompt_tokens=128,
    )
    backend = draw(st.sampled_from(kinds))
    return Job(
        kind=kind,
        shape=shape,
        adapter=Adapter(base=shape.parameters) if whole else lora(shape, draw(st.integers(1, 256))),
        quantization="none" if whole else draw(st.sampled_from(["none", "nf4"])),
        optimizer=draw(st.sampled_from(["adamw", "adamw_8bit", "paged_adamw", "adafactor", "sgd"])),
        micro_batch_size=draw(st.integers(1, 32)),
        accumulation=draw(st.integers(1, 4)),
        tokens=draw(st.integers(16, 4096)),
        packed=draw(st.booleans()),
        attention=draw(st.sampled_from(["sdpa", "eager"])),
        checkpointing=draw(st.booleans()),
        flat=kind == "sft" and draw(st.booleans()),
        most_tokens=draw(st.one_of(st.none(), st.integers(1, 2**17))),
        loss=draw(st.sampled_from(["fused", "tiled", "whole"])),
        compiled=draw(st.booleans()),
        folded=not whole and backend in ("single", "ddp") and draw(st.booleans()),
        on_gpu=draw(st.booleans()),
        spread=Spread(
            type=backend,
            stage=draw(st.sampled_from([1, 2, 3])),
            processes=1 if backend == "single" else draw(st.integers(2, 64)),
            reshard=draw(st.booleans()),
        ),
        roles=roles if kind == "ppo" else None,
    )


def total(job: Job) -> int:
    return estimate(job).total


@given(jobs(), st.integers(1, 64))
@settings(deadline=None, max_examples=25)
def test_a_smaller_batch_never_needs_more(job: Job, rows: int) -> None:
    smaller = replace(job, micro_batch_size=min(rows, job.micro_batch_size))
    assert total(smaller) <= total(job)
    assert total(replace(job, tokens=max(1, job.tokens // 2))) <= total(job)
    assert total(replace(job, accumulation=1)) <= total(job)


@given(jobs(), st.integers(1, 2**17))
@settings(deadline=None, max_examples=25)
def test_flat_rows_never_need_more_than_packed_ones_with_a_mask(job: Job, tokens: int) -> None:
    packed = replace(job, kind="sft", packed=True, attention="sdpa", roles=None, on_gpu=True, most_tokens=None)
    flat = replace(packed, flat=True)
    assert total(flat) <= total(replace(packed, flat=False))
    assert total(replace(flat, most_tokens=tokens)) <= total(flat)
    assert replace(flat, most_tokens=tokens).batch_tokens == min(tokens, flat.batch_tokens)


@given(jobs(), st.integers(1, 256))
@settings(deadline=None, max_examples=25)
def test_a_lower_rank_never_needs_more(job: Job, rank: int) -> None:
    """But for paged optimisers, which take larger matrices out of the device's memory."""
    ranks = [rank, *(each for _, each in job.adapter.low_rank[:1])]
    same = replace(job, quantization="nf4", optimizer=job.optimizer.removeprefix("paged_"))  # type: ignore[arg-type]
    low, high = (replace(same, adapter=lora(job.shape, each)) for each in (min(ranks), max(ranks)))
    assert total(low) <= total(high)


@given(jobs(), st.integers(1, 8), st.integers(1, 4))
@settings(deadline=None, max_examples=25)
def test_more_gpus_never_need_more_of_each(job: Job, times: int, nodes: int) -> None:
    spread = job.spread
    if spread.world == 1:  # a second process brings buckets and NCCL
        return
    more = replace(spread, processes=times * spread.processes, nodes=nodes)
    assert total(replace(job, spread=more)) <= total(job)


@given(jobs(), st.integers(2, 64))
@settings(deadline=None, max_examples=25)
def test_a_higher_stage_divides_more(job: Job, processes: int) -> None:
    """Of states at any size; of the peak where a model is larger than what stage 3 keeps gathered, as measured."""
    whole = replace(job, kind="sft", roles=None, adapter=Adapter(base=job.shape.parameters), quantization="none")

    def at(stage: Any) -> Job:
        return replace(whole, spread=Spread(type="zero", stage=stage, processes=processes))

    def state(each: Job) -> int:
        kept = states(each)
        return kept.weights + kept.masters + kept.gradients + kept.moments

    assert state(at(3)) <= state(at(2)) <= state(at(1))
    assert total(at(2)) <= total(at(1))
    if processes >= 4 and job.shape.parameters > 8 * 10**9:
        assert total(at(3)) <= total(at(2))


@given(jobs())
@settings(deadline=None, max_examples=25)
def test_what_saves_memory_saves_memory(job: Job) -> None:
    assert total(replace(job, checkpointing=True)) <= total(replace(job, checkpointing=False))
    assert total(replace(job, optimizer="adamw_8bit")) <= total(replace(job, optimizer="adamw"))
    if job.full and job.kind != "ppo" and job.spread.type in ("single", "ddp"):
        assert total(replace(job, optimizer="adamw_bf16")) <= total(replace(job, optimizer="adamw"))
    assert total(replace(job, optimizer="sgd")) <= total(job)
    assert total(replace(job, compiled=True)) <= total(replace(job, compiled=False))
    if not job.full:
        assert total(replace(job, quantization="nf4")) <= total(replace(job, quantization="none"))
