"""Classification by likelihood: the label word that a model finds the likeliest answer (PET, arXiv:2001.07676)."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Ids: TypeAlias = Sequence[int]
Normalise: TypeAlias = Literal["none", "tokens"]


@dataclass(frozen=True, slots=True)
class WordScores:
    """What a model thinks of each label word after each prompt, in the order of the prompts and of their words."""

    logprobs: list[list[float]]
    """Natural logarithms; with `normalise="tokens"`, the mean of a word's tokens."""
    predictions: list[int]
    """The index of the likeliest word of each prompt; the first of equals."""


def score_label_words(
    model: "PreTrainedModel",
    prompts: Sequence[Ids],
    words: Sequence[Sequence[Ids]],
    *,
    batch_size: int,
    normalise: Normalise = "none",
    progress: Callable[[int], None] | None = None,
) -> WordScores:
    """The log-likelihood of every label word after its prompt: log p(word | prompt), in fp32 sums.

    `prompts` are token ids; `words[i]` are the ids of the words of prompt i, as they are encoded after it and without
    a stop token. None of them may be a prefix of another. `normalise="tokens"` divides by the number of tokens: for
    words of different lengths. `batch_size` counts sequences; it does not change the result but for the rounding of
    the model's own precision. `progress` is called with the number of sequences done. Raises ValueError for an empty
    prompt or word.
    """
    pairs = [(row, place) for row, each in enumerate(words) for place in range(len(each))]
    if len(prompts) != len(words) or not all(prompts) or not all(words[row][place] for row, place in pairs):
        raise ValueError("each prompt needs at least one token, and words of at least one token each")
    order = sorted(pairs, key=lambda pair: len(prompts[pair[0]]) + len(words[pair[0]][pair[1]]))
    logprobs = [[0.0] * len(each) for each in words]
    model.eval()
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        batch = [(prompts[row], words[row][place]) for row, place in chosen]
        for (row, place), value in zip(chosen, _logprobs(model, batch), strict=True):
            logprobs[row][place] = value / len(words[row][place]) if normalise == "tokens" else value
        if progress:
            progress(min(start + batch_size, len(order)))
    return WordScores(logprobs, [max(range(len(row)), key=row.__getitem__) for row in logprobs])


def _logprobs(model: "PreTrainedModel", batch: Sequence[tuple[Ids, Ids]]) -> list[float]:
    """The log-likelihood of each pair's word, in one forward pass of sequences that are padded on the right."""
    import torch

    rows = [[*prompt, *word] for prompt, word in batch]
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows], device=model.device)
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=model.device)
    with torch.inference_mode():
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits  # sequences, tokens, vocabulary
        found = []
        for row, (prompt, word) in enumerate(batch):
            before = slice(len(prompt) - 1, len(prompt) + len(word) - 1)  # each token is predicted one place earlier
            logprobs = logits[row, before].float().log_softmax(-1)
            found.append(logprobs.gather(-1, ids[row, len(prompt) : len(prompt) + len(word), None]).sum())
        return [float(value) for value in torch.stack(found).tolist()]


def accuracy(predicted: Sequence[str], wanted: Sequence[str]) -> float:
    """Share of the predictions that are right, from 0 to 1."""
    return sum(found == label for found, label in zip(predicted, wanted, strict=True)) / max(len(wanted), 1)


def confusion(predicted: Sequence[str], wanted: Sequence[str]) -> dict[str, dict[str, int]]:
    """How often each wanted label was predicted as each label: `confusion[wanted][predicted]`, in sorted order."""
    labels = sorted({*predicted, *wanted})
    counts = Counter(zip(wanted, predicted, strict=True))
    return {label: {found: counts[label, found] for found in labels} for label in labels}


def f1_by_label(predicted: Sequence[str], wanted: Sequence[str]) -> dict[str, float]:
    """F1 of each label: 2 TP / (2 TP + FP + FN), from 0 to 1."""
    matrix = confusion(predicted, wanted)
    scores = {}
    for label, row in matrix.items():
        named = sum(row.values()) + sum(other[label] for other in matrix.values())  # (TP + FN) + (TP + FP)
        scores[label] = 2 * row[label] / named
    return scores
