"""Where a response ends."""

from collections.abc import Sequence

import torch
from torch import Tensor


def cut_at_stop(tokens_BT: Tensor, stop_ids: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Length of each response, and whether a stop token ended it.

    A response reaches up to and including its first stop token; one without has all T tokens. Padding is never looked
    at, so that the pad token may be a stop token, and may stand inside a response where it is none.

    Gives lengths_B (int64) and stopped_B (bool).
    """
    stops_BT = torch.isin(tokens_BT, torch.tensor(list(stop_ids), dtype=tokens_BT.dtype, device=tokens_BT.device))
    stops_before_BT = stops_BT.cumsum(1) - stops_BT.long()
    return (stops_before_BT == 0).sum(1), stops_BT.any(1)
