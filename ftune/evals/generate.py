"""Greedy completions for many prompts, fast enough for a laptop and independent of how they are batched."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def generate(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Sequence[list[int]],
    *,
    stop_ids: Sequence[int],
    max_new_tokens: int,
    batch_size: int,
    progress: Callable[[int], None] | None = None,
) -> list[str]:
    """The greedy completion of each prompt (token ids), as text without the stop token.

    Prompts are batched by length and padded on the left, so little is computed for nothing; the results are in the
    order of the prompts. `progress` is called with the number of prompts done.
    """
    import torch

    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    pad = int(tokenizer.pad_token_id)
    completions = [""] * len(prompts)
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
            completions[index] = tokenizer.decode(_until_stop(row, stop_ids), skip_special_tokens=True)
        if progress:
            progress(min(start + batch_size, len(order)))
    return completions


def _until_stop(ids: list[int], stop_ids: Sequence[int]) -> list[int]:
    ends = [ids.index(stop) for stop in stop_ids if stop in ids]
    return ids[: min(ends)] if ends else ids
