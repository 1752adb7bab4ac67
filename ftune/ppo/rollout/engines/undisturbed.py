"""Generation that leaves no trace: not in the model, not in the random state of the process."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from peft import PeftModel
from transformers import GenerationConfig, PreTrainedModel

from ftune.core.errors import ModelError
from ftune.ppo.rollout.base import Sampling


def causal_model(model: PreTrainedModel | PeftModel) -> PreTrainedModel:
    """The model of transformers, with the adapters that sit in its layers.

    Raises ModelError for adapters that put tokens in front of the prompt: they are no part of its layers.
    """
    if not isinstance(model, PeftModel):
        return model
    if model.active_peft_config.is_prompt_learning:
        kind = model.active_peft_config.peft_type.value
        raise ModelError(f"peft.type: rollouts of {kind.lower()} are not supported; use 'lora'")
    return model.get_base_model()


@contextmanager
def undisturbed(model: PreTrainedModel, seed: int) -> Iterator[None]:
    """In evaluation mode, without gradients, drawing from `seed`; afterwards everything is as it was.

    Evaluation mode also keeps activation checkpointing, which would refuse the cache, out of the forward pass. What
    the model's author recommends for generation (penalties, limits of length, top-p, ...) is put aside: PPO's ratio is
    taken to the distribution of the model itself.
    """
    modes = [(module, module.training) for module in model.modules()]
    recommended, attention = model.generation_config, model.config._attn_implementation
    devices = [] if model.device.type == "cpu" else range(torch.accelerator.device_count())
    try:
        model.eval()
        model.generation_config = GenerationConfig()
        with torch.no_grad(), torch.random.fork_rng(devices):
            torch.manual_seed(seed)
            yield
    finally:
        model.generation_config = recommended
        if model.config._attn_implementation != attention:
            model.set_attn_implementation(attention)
        for module, mode in modes:
            module.training = mode


def pure_sampling(sampling: Sampling, pad_id: int, stop_ids: tuple[int, ...]) -> GenerationConfig:
    """Sampling and nothing else; `top_k` 0 stands there because transformers fills a missing one with 50."""
    return GenerationConfig(
        do_sample=True,
        max_new_tokens=sampling.max_new_tokens,
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        pad_token_id=pad_id,
        eos_token_id=list(stop_ids) or None,
        use_cache=True,
    )
