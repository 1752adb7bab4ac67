"""Greedy completions for many prompts, fast enough for a laptop and independent of how they are batched."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Completion:
    """What a model wrote after one prompt."""

    text: str
    """Without the stop token and other special ones."""
    ids: list[int]
    """Its tokens, without the stop token."""
    stopped: bool
    """Whether the model ended it, and not the limit."""


def complete(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Sequence[list[int]],
    *,
    stop_ids: Sequence[int],
    max_new_tokens: int,
    batch_size: int,
    told: Callable[[int, Completion], None],
) -> None:
    """Complete each prompt (token ids) greedily, and call `told` with its number as soon as it is done.

    Prompts are batched by length and padded on the left, so little is computed for nothing; the longest go first, so
    what does not fit into memory fails at once.
    """
    import torch

    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    pad = int(tokenizer.pad_token_id)
    model.eval()
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        width = max(len(prompts[index]) for index in chosen)
        ids = [[pad] * (width - len(prompts[index])) + prompts[index] for index in chosen]
        mask = [[0] * (width - len(prompts[index])) + [1] * len(prompts[index]) for index in chosen]
        with torch.inference_mode():
            made = model.generate(
                input_ids=torch.tensor(ids, device=model.device),
                attention_mask=torch.tensor(mask, device=model.device),
                max_new_tokens=max_new_tokens,
                do_sample=False,
                eos_token_id=list(stop_ids),
                pad_token_id=pad,
                use_cache=True,
            )
        for index, row in zip(chosen, made[:, width:].tolist(), strict=True):
            written = _until_stop(row, stop_ids)
            text = tokenizer.decode(written, skip_special_tokens=True)
            told(index, Completion(text, written, len(written) < len(row)))


def generate(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Sequence[list[int]],
    *,
    stop_ids: Sequence[int],
    max_new_tokens: int,
    batch_size: int,
) -> list[str]:
    """The greedy completion of each prompt (token ids), as text without the stop token, in the order of the prompts."""
    texts = [""] * len(prompts)

    def told(index: int, completion: Completion) -> None:
        texts[index] = completion.text

    limits = {"max_new_tokens": max_new_tokens, "batch_size": batch_size}
    complete(model, tokenizer, prompts, stop_ids=stop_ids, **limits, told=told)
    return texts


def _until_stop(ids: list[int], stop_ids: Sequence[int]) -> list[int]:
    ends = [ids.index(stop) for stop in stop_ids if stop in ids]
    return ids[: min(ends)] if ends else ids
