"""The value of a state: one number from the hidden state of its last token."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class ValueHead(nn.Module):
    """V = w h + b in fp32, zero at the start, so that the first advantages are those of a critic without opinion."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, hidden_size, dtype=torch.float32))
        self.bias = nn.Parameter(torch.zeros(1, dtype=torch.float32))

    def forward(self, hidden_ND: Tensor) -> Tensor:
        """Values, shape (N,), fp32 whatever the number format of the hidden states or of products around it."""
        with torch.autocast(hidden_ND.device.type, enabled=False):
            return functional.linear(hidden_ND.float(), self.weight.float(), self.bias.float()).squeeze(-1)
