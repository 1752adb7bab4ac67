"""Greedy completions for many prompts, fast enough for a laptop and independent of how they are batched."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
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
) -> Iterator[tuple[int, Completion]]:
    """Complete each prompt (token ids) greedily; gives the number of each with its completion as soon as it is done.

    Prompts are batched by length and padded on the left, so little is computed for nothing. A completion ends where the
    model can read no further, too; rows that come so far are batched with those of their own length.
    """
    import torch

    pad = int(tokenizer.pad_token_id)
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    limits = [max(1, min(max_new_tokens, positions - len(ids))) if positions else max_new_tokens for ids in prompts]
    model.eval()
    for chosen in batches(prompts, limits, batch_size):
        width = max(len(prompts[index]) for index in chosen)
        ids = [[pad] * (width - len(prompts[index])) + prompts[index] for index in chosen]
        mask = [[0] * (width - len(prompts[index])) + [1] * len(prompts[index]) for index in chosen]
        with torch.inference_mode(), _without_recommendations(model):
            made = model.generate(
                input_ids=torch.tensor(ids, device=model.device),
                attention_mask=torch.tensor(mask, device=model.device),
                max_new_tokens=limits[chosen[0]],
                do_sample=False,
                eos_token_id=list(stop_ids),
                pad_token_id=pad,
                use_cache=True,
            )
        for index, row in zip(chosen, made[:, width:].tolist(), strict=True):
            written = _until_stop(row, stop_ids)
            text = tokenizer.decode(written, skip_special_tokens=True)
            yield index, Completion(text, written, len(written) < len(row))


@contextmanager
def _without_recommendations(model: "PreTrainedModel") -> Iterator[None]:
    """What the model's author recommends for generation is put aside.

    Beams and penalties for repetition (Qwen2.5 comes with one) stay in force where nothing is drawn: that would be no
    greedy decoding, and another one for each model. Penalties also look at the padding.
    """
    from transformers import GenerationConfig

    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    recommended = inner.generation_config
    try:
        model.generation_config = inner.generation_config = GenerationConfig()
        yield
    finally:
        model.generation_config = inner.generation_config = recommended


def generate(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Sequence[list[int]],
    *,
    stop_ids: Sequence[int],
    max_new_tokens: int,
    batch_size: int,
) -> list[str]:
    """The texts that `complete` gives, in the order of the prompts."""
    done = dict(
        complete(model, tokenizer, prompts, stop_ids=stop_ids, max_new_tokens=max_new_tokens, batch_size=batch_size)
    )
    return [done[index].text for index in range(len(prompts))]


def batches(prompts: Sequence[Sequence[int]], limits: Sequence[int], size: int) -> list[list[int]]:
    """The numbers of the prompts in batches of like length and one limit each, the longest first.

    So too little memory shows at once.
    """
    order = sorted(range(len(prompts)), key=lambda index: (limits[index], -len(prompts[index])))
    alike = [list(group) for _, group in groupby(order, key=lambda index: limits[index])]
    return [group[start : start + size] for group in alike for start in range(0, len(group), size)]


def _until_stop(ids: list[int], stop_ids: Sequence[int]) -> list[int]:
    ends = [ids.index(stop) for stop in stop_ids if stop in ids]
    return ids[: min(ends)] if ends else ids
