"""Classification by likelihood: the label word that a model finds the likeliest answer (PET, arXiv:2001.07676)."""

from collections import Counter
from collections.abc import Sequence
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
) -> WordScores:
    """The log-likelihood of every label word after its prompt: log p(word | prompt), in fp32 sums.

    `prompts` are token ids; `words[i]` are the ids of the words of prompt i, as they are encoded after it and without
    a stop token. None of them may be a prefix of another. `normalise="tokens"` divides by the number of tokens: for
    words of different lengths. `batch_size` counts sequences; it does not change the result but for the rounding of
    the model's own precision. Raises ValueError for an empty prompt or word.
    """
    if len(prompts) != len(words) or not all(prompts) or not all(word for each in words for word in each):
        raise ValueError("each prompt needs at least one token, and words of at least one token each")
    # a word's last token is never read, so that all words of one token share one sequence: their prompt
    uses: dict[tuple[int, ...], list[tuple[int, int]]] = {}
    for row, each in enumerate(words):
        for place, word in enumerate(each):
            uses.setdefault((*prompts[row], *word[:-1]), []).append((row, place))
    logprobs = [[0.0] * len(each) for each in words]
    sequences = sorted(uses, key=len)
    model.eval()
    for start in range(0, len(sequences), batch_size):
        batch = sequences[start : start + batch_size]
        asked = [[(len(prompts[row]), words[row][place]) for row, place in uses[ids]] for ids in batch]
        for ids, values in zip(batch, _logprobs(model, batch, asked), strict=True):
            for (row, place), value in zip(uses[ids], values, strict=True):
                logprobs[row][place] = value / len(words[row][place]) if normalise == "tokens" else value
    return WordScores(logprobs, [max(range(len(row)), key=row.__getitem__) for row in logprobs])


def _logprobs(
    model: "PreTrainedModel", batch: Sequence[Ids], asked: Sequence[Sequence[tuple[int, Ids]]]
) -> list[list[float]]:
    """The log-likelihoods of the words asked for in each sequence, given with their place; one forward pass.

    Sequences are padded on the right. Logits are made from the first word on only: a vocabulary is large.
    """
    import torch

    width = max(map(len, batch))
    first = min(start for each in asked for start, _ in each) - 1
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in batch], device=model.device)
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in batch], device=model.device)
    with torch.inference_mode():
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False, logits_to_keep=width - first).logits
        found: list[list[float]] = []
        for row, each in zip(logits, asked, strict=True):
            values = []
            for start, word in each:
                before = start - 1 - first  # each token is predicted one place earlier
                logprobs = row[before : before + len(word)].float().log_softmax(-1)
                values.append(logprobs.gather(-1, torch.tensor(word, device=model.device)[:, None]).sum())
            found.append(torch.stack(values).tolist())
    return found


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
