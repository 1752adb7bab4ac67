"""Logits of a sequence classifier, pooled at each row's true last token.

transformers pools at the last token that is not the pad token. Where pad and end-of-text are one token, as in GPT-2,
Llama and SmolLM2, it skips a row's own end: another place than the one that was trained. Here the lengths decide.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, Any, TypeAlias

from ftune.core.errors import ModelError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

Logits: TypeAlias = Callable[[list[list[int]]], "torch.Tensor"]
"""The logits, shape (rows, classes) in fp32, of rows of token ids."""


def pools_last_token(model: "PreTrainedModel") -> bool:
    """Whether its head reads the last token, as those of causal models do: transformers calls such a head `score`."""
    return hasattr(model, "score")


def logits_of(model: Any, pad_id: int) -> Logits:
    """The classifier (or a PEFT model of one) as a function of rows, which it pads on the right."""
    import torch

    model.eval()
    inner = model.get_base_model() if hasattr(model, "peft_config") else model
    pooled = _PooledHead(inner.score) if pools_last_token(inner) else None
    if inner.config.get_text_config().pad_token_id is None:  # transformers refuses to pool more rows than one without
        inner.config.get_text_config().pad_token_id = pad_id

    def logits(rows: list[list[int]]) -> "torch.Tensor":
        width = max(map(len, rows))
        ids = torch.tensor([row + [pad_id] * (width - len(row)) for row in rows], device=inner.device)
        lengths = torch.tensor([len(row) for row in rows], device=inner.device)
        mask = (torch.arange(width, device=inner.device) < lengths[:, None]).long()
        with torch.no_grad():
            own = model(input_ids=ids, attention_mask=mask).logits
            return own.float() if pooled is None else pooled.at(lengths, width)

    return logits


class _PooledHead:
    """The head applied in fp32 to one place of each row, from what its model gave it to read."""

    def __init__(self, head: "torch.nn.Module") -> None:
        self._head = deepcopy(head).float()
        self._read: torch.Tensor | None = None
        head.register_forward_pre_hook(self._keep)

    def _keep(self, _: "torch.nn.Module", args: tuple[Any, ...]) -> None:
        self._read = args[0]

    def at(self, lengths: "torch.Tensor", width: int) -> "torch.Tensor":
        """The logits at each row's last token, of the rows that the model has just read."""
        import torch

        read, self._read = self._read, None
        if read is None or read.dim() != 3:
            raise ModelError("its head does not read every token of a row, so that it cannot be pooled at the last one")
        # Rows that grew have virtual tokens in front, and ftune's own order for them: padding, virtual tokens, text.
        last = lengths - 1 if read.shape[1] == width else torch.full_like(lengths, read.shape[1] - 1)
        logits: torch.Tensor = self._head(read[torch.arange(len(last), device=read.device), last].float())
        return logits


def in_micro_batches(logits: Logits, rows: Sequence[list[int]], size: int) -> "torch.Tensor":
    """The logits of any number of rows, in their order, on the CPU; rows of like length are computed together."""
    import torch

    order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
    parts = [logits([rows[index] for index in order[start : start + size]]) for start in range(0, len(order), size)]
    by_length = torch.cat(parts).cpu()
    return by_length[torch.tensor(order).argsort()]
