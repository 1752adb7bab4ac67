"""Rollouts as tensors. Sequences are padded on the right only, so that nothing has to be masked in attention.

A causal model does not see what comes later: tokens behind a sequence's end change nothing before it, positions are
counted from 0 everywhere, and neither attention masks nor position ids are needed (which also lets attention take its
fastest path). Rollout engines that pad on the left keep that to themselves.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ftune.ppo.rollout.base import Rollout


@dataclass(frozen=True, slots=True)
class Sequences:
    """B prompts with their responses; S is the longest of both together, T the longest response."""

    ids_BS: torch.Tensor
    """Token ids, int64; behind a sequence's end any id."""
    starts_B: torch.Tensor
    """Tokens of each prompt: the place of its first response token."""
    ends_B: torch.Tensor
    """Tokens of prompt and response together."""

    @property
    def lengths_B(self) -> torch.Tensor:
        """Tokens of each response."""
        return self.ends_B - self.starts_B

    @property
    def mask_BT(self) -> torch.Tensor:
        """1.0 where a response token is real."""
        width = int(self.lengths_B.max())
        return (torch.arange(width, device=self.ids_BS.device) < self.lengths_B[:, None]).float()

    @property
    def responses_BT(self) -> torch.Tensor:
        """The response tokens; behind the end token 0."""
        mask = self.mask_BT.bool()
        places = self.starts_B[:, None] + torch.arange(mask.shape[1], device=self.ids_BS.device)
        return self.ids_BS.gather(1, places.clamp(max=self.ids_BS.shape[1] - 1)).masked_fill(~mask, 0)

    def rows(self, index: torch.Tensor) -> "Sequences":
        """Some of them, cut to the longest of those."""
        ends = self.ends_B[index]
        return Sequences(self.ids_BS[index, : int(ends.max())], self.starts_B[index], ends)


def micro_batches(lengths: torch.Tensor, size: int) -> list[torch.Tensor]:
    """Indexes of `size` rows each, rows of like length together, so that little is padded."""
    return list(torch.split(lengths.argsort(descending=True, stable=True), size))


def collate(rollouts: Sequence[Rollout], pad_id: int, device: torch.device | str) -> Sequences:
    """Rollouts, padded on the right to the longest of them."""
    whole = [rollout.prompt_ids + rollout.token_ids for rollout in rollouts]
    width = max(map(len, whole))
    ids = torch.full((len(whole), width), pad_id, dtype=torch.int64)
    for row, tokens in zip(ids, whole, strict=True):
        row[: len(tokens)] = torch.tensor(tokens)
    return Sequences(
        ids.to(device),
        torch.tensor([len(rollout.prompt_ids) for rollout in rollouts], device=device),
        torch.tensor([len(tokens) for tokens in whole], device=device),
    )
