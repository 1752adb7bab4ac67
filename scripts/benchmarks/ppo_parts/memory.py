"""Memory of all roles on one base, once loaded and once the optimiser has its states, beside the arithmetic."""

import argparse
import tempfile
from functools import partial
from pathlib import Path

from ppo_parts.work import LARGE, TINY, Result, Work, attempts, base_model, device_name, gib, lora_settings

EIGHT_B = Work(
    {
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "intermediate_size": 14_336,
        "vocab_size": 128_256,
    },
    prompts=0,
    prompt_tokens=0,
    new_tokens=0,
    rounds=0,
)
BYTES_A_TRAINED_PARAMETER = 16
"""fp32 weight, gradient and AdamW's two moments."""


def memory_part(work: Work, given: argparse.Namespace) -> list[Result]:
    """The shapes of Llama-3.2-1B and Llama-3.1-8B."""
    shapes = {"tiny": TINY} if given.tiny else {"1B": LARGE, "8B": EIGHT_B}
    return [result for name, shape in shapes.items() for result in attempts(name, partial(measured, name, shape))]


def measured(name: str, work: Work) -> Result:
    """Policy and value adapters that train, a reward adapter, and the base as the reference."""
    import torch
    from peft import get_peft_model

    from ftune.peft.base import count_parameters
    from ftune.peft.lora import Lora
    from ftune.ppo.build import build
    from ftune.ppo.optimizer import make_optimizer
    from ftune.ppo.reward_adapter import PolicyBase

    tied = name != "8B"
    with tempfile.TemporaryDirectory() as folder:
        scorer = get_peft_model(
            base_model(work, "AutoModelForSequenceClassification", num_labels=1, tie_word_embeddings=tied),
            lora_settings("SEQ_CLS"),
        )
        scorer.save_pretrained(folder)
        del scorer
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        base = base_model(work, tie_word_embeddings=tied)
        weights = sum(parameter.numel() * parameter.element_size() for parameter in base.parameters())
        actor = build(Lora(rank=16).wrap(base), value="adapter")
        PolicyBase(actor, "", "", 8).add_reward_adapter(str(Path(folder)))
        loaded, peak = gib("memory_allocated"), gib("max_memory_allocated")
        rates = {"policy": 1e-4, "value": 1e-4}
        optimizer = make_optimizer(
            "adamw", actor.parameter_groups(), rates, betas=(0.9, 0.95), eps=1e-5, weight_decay=0.0
        )
        for parameter in actor.trainable_parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        trained, total = count_parameters(actor)
        arithmetic = (weights + BYTES_A_TRAINED_PARAMETER * trained) / 2**30
        copies = 4 * weights / 2**30
        at_work = gib("memory_allocated")
        return {
            "part": "memory",
            "case": f"memory {name}",
            "device": device_name(),
            "trained": trained,
            "parameters": total,
            "loaded_gib": loaded,
            "peak_gib": peak,
            "with_optimizer_gib": at_work,
            "arithmetic_gib": round(arithmetic, 2),
            "ratio": at_work and round(at_work / arithmetic, 3),
            "of_four_copies": at_work and round(at_work / copies, 3),
        }
