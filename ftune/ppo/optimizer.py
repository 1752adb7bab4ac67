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
    """An optimiser over the groups, each with its `role` and its peak learning rate.

    Only the policy's matrices decay: what has one dimension is a bias or belongs to a norm, and has a group of its own.
    """
    made = [
        {"params": parameters, "role": role, "lr": learning_rates[role], "weight_decay": decay}
        for role, everything in groups.items()
        for decay, parameters in _by_decay(everything, weight_decay if role == "policy" else 0.0)
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


def _by_decay(parameters: Sequence[torch.nn.Parameter], decay: float) -> list[tuple[float, list[torch.nn.Parameter]]]:
    """The parameters by how much they decay."""
    if not decay:
        return [(0.0, list(parameters))]
    return [
        (decay, [value for value in parameters if value.dim() > 1]),
        (0.0, [value for value in parameters if value.dim() <= 1]),
    ]
