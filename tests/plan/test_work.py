"""Operations of a step against those that PyTorch counts, and the time and money that follow."""

from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from ftune.plan.adapter import Adapter
from ftune.plan.families import shape_of_config
from ftune.plan.gpus import find_gpu
from ftune.plan.job import Job, Roles, Spread
from ftune.plan.work import Work, cost, forward_flops, ppo_work, token_flops, training_work, useful_flops
from ftune.speed.selective import selective_layers

CONFIG = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 160,
    "vocab_size": 96,
    "tie_word_embeddings": False,
}
ROWS, TOKENS, RANK = 2, 32, 4
SHAPE = shape_of_config(CONFIG)
NUMBERS = SHAPE.layers * sum(RANK * (linear.inputs + linear.outputs) for linear in SHAPE.layer_linears)
FULL = Job(shape=SHAPE, adapter=Adapter(base=SHAPE.parameters), micro_batch_size=ROWS, tokens=TOKENS)
LORA = replace(
    FULL,
    adapter=Adapter(parameters=NUMBERS, low_rank=tuple((linear.name, RANK) for linear in SHAPE.layer_linears)),
)


def model(*, lora: bool, attention: str = "eager") -> Any:
    given = dict(CONFIG)
    settings = CONFIG_MAPPING[str(given.pop("model_type"))](**given)
    made: Any = AutoModelForCausalLM.from_config(settings, attn_implementation=attention)
    names = [linear.name.rpartition(".")[2] for linear in SHAPE.layer_linears]
    return get_peft_model(made, LoraConfig(r=RANK, target_modules=names)) if lora else made


def counted(*, lora: bool, again: bool = False) -> float:
    """Operations a token, forward and backward."""
    made = model(lora=lora).train()
    if again:
        made.gradient_checkpointing_enable({"use_reentrant": False})
    ids = torch.zeros(ROWS, TOKENS, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter:
        made(input_ids=ids, attention_mask=None, use_cache=False).logits.sum().backward()
    return counter.get_total_flops() / (ROWS * TOKENS)


def test_a_token_of_full_fine_tuning_costs_what_pytorch_counts() -> None:
    assert token_flops(FULL) == counted(lora=False)


def test_lora_costs_two_thirds_of_it() -> None:
    """Within 6 %: the first layer's input needs no gradient."""
    assert token_flops(LORA) == pytest.approx(counted(lora=True), rel=0.06)
    assert 0.6 < token_flops(LORA) / token_flops(FULL) < 0.85


def test_checkpointing_computes_the_layers_again() -> None:
    """It stops before each layer's last product, once everything is there again that was kept."""
    again = replace(FULL, checkpointing=True)
    assert token_flops(again) == counted(lora=False, again=True)
    assert token_flops(again) < token_flops(FULL) + forward_flops(FULL)


def test_selective_checkpointing_computes_less_again() -> None:
    """PyTorch counts no attention on a CPU, of which there is none to do again."""
    ids = torch.zeros(ROWS, TOKENS, dtype=torch.int64)
    found = []
    for selective in (False, True):
        made = model(lora=False, attention="sdpa").train()
        layers = selective_layers(made, {"input_ids": ids}) if selective else nullcontext()
        with layers, FlopCounterMode(display=False) as counter:
            made(input_ids=ids, use_cache=False).logits.sum().backward()
        found.append(counter.get_total_flops() / (ROWS * TOKENS))
    again = replace(FULL, checkpointing="selective")
    assert token_flops(again) - token_flops(FULL) == found[1] - found[0]
    assert token_flops(again) < token_flops(replace(FULL, checkpointing=True))


def test_eight_billion_parameters_cost_six_operations_each() -> None:
    shape = shape_of_config(
        {
            "model_type": "llama",
            "hidden_size": 4096,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "intermediate_size": 14_336,
            "vocab_size": 128_256,
        }
    )
    job = Job(shape=shape, adapter=Adapter(base=shape.parameters), tokens=128)
    assert token_flops(job) == pytest.approx(6 * shape.parameters, rel=0.07)


@pytest.mark.parametrize("job", [FULL, LORA])
def test_rows_of_all_lengths_cost_what_each_costs_alone(job: Job) -> None:
    lengths = [1, 7, 32, 32, 100]
    each = sum(length * token_flops(replace(job, tokens=length)) for length in lengths)
    tokens, squares = sum(lengths), sum(length * length for length in lengths)
    for same in (job, replace(job, checkpointing=True), replace(job, packed=True, micro_batch_size=9)):
        assert useful_flops(same, tokens, squares, tokens) == pytest.approx(each)
    assert useful_flops(job, TOKENS, TOKENS**2, TOKENS) == pytest.approx(TOKENS * token_flops(job))


def test_the_head_is_of_use_where_a_token_is_trained() -> None:
    """Frozen it is multiplied twice, forward and for the gradient of its input; a reward model has none."""
    head = 4.0 * SHAPE.head.weights
    all_of_it = useful_flops(LORA, 40, 900, 40)
    assert useful_flops(LORA, 40, 900, 10) == pytest.approx(all_of_it - 30 * head)
    assert useful_flops(replace(LORA, kind="rm"), 40, 900, 2) == pytest.approx(all_of_it - 40 * head)


def test_flat_rows_attend_to_themselves_alone() -> None:
    packed = replace(FULL, packed=True, flat=True)
    masked, alone = replace(packed, flat=False), replace(packed, own_tokens=TOKENS // 4)
    scores = 12 * SHAPE.layers * SHAPE.query_width
    assert token_flops(masked) - token_flops(packed) == scores * (ROWS * TOKENS - TOKENS)
    assert token_flops(packed) - token_flops(alone) == scores * (TOKENS - TOKENS // 4)


def test_steps_processes_and_accumulation_multiply() -> None:
    one = training_work(FULL, 1).flops
    assert one == pytest.approx(ROWS * TOKENS * token_flops(FULL))
    many = replace(FULL, accumulation=3, spread=Spread(type="ddp", processes=4))
    assert training_work(many, 10).flops == pytest.approx(120 * one)


def test_hours_and_money() -> None:
    gpu = find_gpu("h100")
    assert gpu.flops is not None
    hour = Work(gpu.flops * 3600 * 0.5)
    assert hour.hours(gpu, 1, share=0.5) == pytest.approx(1)
    assert hour.hours(gpu, 4, share=0.25) == pytest.approx(0.5)
    assert hour.hours(find_gpu("24GiB"), 1) is None
    assert cost(2.5, 8, 3.0) == 60.0


def test_ppo_costs_more_with_more_roles_and_longer_completions() -> None:
    job = replace(LORA, kind="ppo", roles=Roles(completions=8, at_once=8, prompt_tokens=16, new_tokens=16))
    least = ppo_work(job, 1, 1)
    assert ppo_work(job, 5, 1).flops == pytest.approx(5 * least.flops)
    assert ppo_work(job, 1, 2).flops > least.flops
    assert job.roles is not None
    for more in ({"value": "adapter"}, {"reward_adapters": 1}, {"reward_models": (SHAPE,)}, {"new_tokens": 64}):
        assert ppo_work(replace(job, roles=replace(job.roles, **more)), 1, 1).flops > least.flops
    slower = ppo_work(replace(job, roles=replace(job.roles, at_once=4)), 1, 1)
    assert slower.read == 2 * least.read
