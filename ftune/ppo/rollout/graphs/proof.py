"""Our pass against the model's own forward, on two short rows, before anything relies on it."""

import torch

from ftune.core.errors import ModelError
from ftune.ppo.rollout.base import Policy, Sampling
from ftune.ppo.rollout.graphs.layout import Layout
from ftune.ppo.rollout.graphs.session import Room, Session
from ftune.ppo.rollout.graphs.weights import Mode, Weights

TOLERANCE = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 8e-2}
"""Relative differences of logits that rounding explains; a wrong position or a missing adapter makes more."""

PROMPTS, STEPS = (9, 5), 3


def prove(policy: Policy, layout: Layout, mode: Mode) -> float:
    """The relative difference of logits behind prompts and given tokens. Raises ModelError if it is too large."""
    found = difference(policy, layout, mode)
    allowed = TOLERANCE.get(layout.dtype, TOLERANCE[torch.bfloat16])
    if not found <= allowed:
        raise ModelError(
            f"the graph engine cannot serve this model: its logits differ from the model's own by {found:.2g} "
            f"(relative; at most {allowed:g})"
        )
    return found


@torch.no_grad()
def difference(policy: Policy, layout: Layout, mode: Mode) -> float:
    """Relative difference of our logits to the model's own, each position's mean taken off."""
    vocabulary, device = layout.embedding.num_embeddings, layout.device
    rows = [
        [(7919 * place + 31 * row + 11) % vocabulary for place in range(n + STEPS)] for row, n in enumerate(PROMPTS)
    ]
    room = Room(len(PROMPTS), max(PROMPTS) + STEPS, 1)
    session = Session(layout, Weights(layout, mode), room, Sampling(1), (), compiled=False)
    ours = [session.logits(session.read_prompts([row[:n] for row, n in zip(rows, PROMPTS, strict=True)]))]
    for step in range(STEPS):
        tokens = [row[n + step] for row, n in zip(rows, PROMPTS, strict=True)]
        session.tokens_B.copy_(torch.tensor(tokens, device=device))
        ours.append(session.logits(session.read_tokens()))
    ours_BTV = torch.stack(ours, 1)
    with torch.autocast(device.type, policy.autocast, enabled=policy.autocast is not None):
        theirs_BTV = torch.stack(
            [
                policy.model(input_ids=torch.tensor([row], device=device), use_cache=False).logits[0, n - 1 :].float()
                for row, n in zip(rows, PROMPTS, strict=True)
            ]
        )
    ours_BTV, theirs_BTV = (each - each.mean(-1, keepdim=True) for each in (ours_BTV, theirs_BTV))
    return float((ours_BTV - theirs_BTV).norm() / theirs_BTV.norm())
