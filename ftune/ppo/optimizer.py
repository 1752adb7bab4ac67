"""Optimisers by their names in a recipe."""

from collections.abc import Mapping, Sequence

import torch

ADAMW_8BIT = {"adamw_8bit": "AdamW8bit", "paged_adamw": "PagedAdamW32bit", "paged_adamw_8bit": "PagedAdamW8bit"}
"""Those of bitsandbytes."""


def make_optimizer(
    name: str,
    groups: Mapping[str, Sequence[torch.nn.Parameter]],
    learning_rates: Mapping[str, float],
    *,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
) -> torch.optim.Optimizer:
    """An optimiser over the groups, each with its `role` and its peak learning rate; only the policy's decays."""
    made = [
        {
            "params": list(parameters),
            "role": role,
            "lr": learning_rates[role],
            "weight_decay": weight_decay if role == "policy" else 0.0,
        }
        for role, parameters in groups.items()
        if parameters
    ]
    if name == "sgd":
        return torch.optim.SGD(made)
    if name == "adafactor":
        from transformers import Adafactor

        adafactor: torch.optim.Optimizer = Adafactor(made, scale_parameter=False, relative_step=False)
        return adafactor
    if name == "adamw":
        on_gpu = made[0]["params"][0].is_cuda  # type: ignore[index]
        return torch.optim.AdamW(made, betas=betas, eps=eps, fused=on_gpu)
    import bitsandbytes

    optimizer: torch.optim.Optimizer = getattr(bitsandbytes.optim, ADAMW_8BIT[name])(made, betas=betas, eps=eps)
    return optimizer
