"""What `ftune rm` draws from: prompts with their pairs of answers, or texts with their classes; and their batches."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from ftune.data.prepared import Prepared
from ftune.evals.pairs import Floats, ScoredPairs
from ftune.speed.flat import FlatCollator
from ftune.trainers.feed import Example


class PairDataset(Dataset[Example]):
    """Prompts with all of their pairs. An answer that is part of several pairs is in an example once."""

    def __init__(self, prepared: Prepared) -> None:
        """`prepared` has a pair a sequence; pairs of one row are one example, as often as the row comes."""
        self.prepared, self.rejected = prepared, prepared.rejected()
        self.prompts = list(_prompts(prepared))

    def __len__(self) -> int:
        return len(self.prompts)

    def __getitem__(self, index: int) -> Example:
        """One prompt: `input_ids` of its answers end to end, their `lengths`, and its pairs as places of answers."""
        pairs = self.prompts[index]
        places: dict[tuple[int, ...], int] = {}
        better = [places.setdefault(tuple(self.prepared.ids(pair)), len(places)) for pair in pairs]
        worse = [places.setdefault(tuple(self.rejected.ids(pair)), len(places)) for pair in pairs]
        return {
            "input_ids": [token for answer in places for token in answer],
            "lengths": [len(answer) for answer in places],
            "better": better,
            "worse": worse,
            "margins": [self.margin(pair) for pair in pairs],
            "row": pairs,
        }

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest example, each of its answers once."""
        sides = self.prepared.lengths, self.rejected.lengths
        at_most = [sum(int(side[pair]) for pair in pairs for side in sides) for pairs in self.prompts]
        longest = 1
        for number in sorted(range(len(at_most)), key=at_most.__getitem__, reverse=True):
            if at_most[number] <= longest:  # so is all that follows
                break
            longest = max(longest, self._tokens(self.prompts[number]))
        return longest

    def _tokens(self, pairs: list[int]) -> int:
        """Of the answers of these pairs, each once."""
        sides = self.prepared, self.rejected
        answers = {side.arrays(pair)[0].tobytes(): int(side.lengths[pair]) for pair in pairs for side in sides}
        return sum(answers.values())

    def margin(self, pair: int) -> float:
        """The margin that the row of a pair gives; 0 without one."""
        part, row = self.prepared.place(pair)
        margin = float(part.table.scores[row])
        return 0.0 if math.isnan(margin) else margin


class ClassDataset(Dataset[Example]):
    """Texts with the places of their classes."""

    def __init__(self, prepared: Prepared) -> None:
        """`prepared` has the class as score of each sequence."""
        self.prepared = prepared

    def __len__(self) -> int:
        return len(self.prepared)

    def __getitem__(self, index: int) -> Example:
        """One text."""
        part, row = self.prepared.place(index)
        ids = self.prepared.ids(index)
        return {"input_ids": ids, "lengths": [len(ids)], "class": int(part.table.scores[row]), "row": index}

    @property
    def longest(self) -> int:
        """Tokens of the longest text."""
        return int(self.prepared.lengths.max(initial=1))

    def counts(self, classes: int) -> list[int]:
        """Rows of each class."""
        found = np.bincount(self.prepared.scores.astype(np.int64), minlength=classes)
        counts: list[int] = found.tolist()
        return counts


@dataclass(frozen=True, slots=True)
class Padding:
    """How rows of different lengths become one tensor: with `token` on the right.

    A causal model does not look ahead, so it needs no attention mask for that; virtual tokens do (`masked`).
    """

    token: int
    masked: bool = False

    def batch(self, rows: Sequence[Sequence[int]]) -> dict[str, torch.Tensor]:
        """`input_ids` of shape (rows, tokens of the longest), and the `attention_mask` where one is needed."""
        longest = max(map(len, rows))
        ids = torch.tensor([[*row, *[self.token] * (longest - len(row))] for row in rows])
        if not self.masked:
            return {"input_ids": ids}
        lengths = torch.tensor([[len(row)] for row in rows])
        return {"input_ids": ids, "attention_mask": (torch.arange(longest) < lengths).long()}


@dataclass(frozen=True, slots=True)
class EndToEnd:
    """How rows of different lengths become one tensor without padding; see `FlatCollator`."""

    longest: int = 0
    """Tokens of the longest row that may come."""
    rounded: bool = False
    """Whether a last row, which has no score, rounds the number of tokens."""

    def batch(self, rows: Sequence[Sequence[int]]) -> dict[str, Any]:
        """The flat batch, and `ends`: the places of the last tokens of rows, shape (rows,)."""
        examples = [{"input_ids": row, "labels": row} for row in rows]
        batch = FlatCollator(self.longest, self.rounded)(examples)
        del batch["labels"]
        return batch | {"ends": torch.tensor([len(row) for row in rows]).cumsum(0) - 1}


Laid = Padding | EndToEnd
"""How rows lie in a batch."""


@dataclass(frozen=True, slots=True)
class PairCollator:
    """Prompts as one batch in which each answer is computed once."""

    laid: Laid
    with_margins: bool

    def __call__(self, examples: list[Example]) -> dict[str, Any]:
        """Answers as rows, pairs as row numbers, and what each pair weighs in its prompt's mean."""
        starts, rows = [], list[list[int]]()
        for example in examples:
            starts.append(len(rows))
            rows += answers_of(example)
        pairs = list(zip(examples, starts, strict=True))
        better = torch.tensor([start + place for example, start in pairs for place in example["better"]])
        worse = torch.tensor([start + place for example, start in pairs for place in example["worse"]])
        margins = torch.tensor([margin for example in examples for margin in example["margins"]])
        return self.laid.batch(rows) | {
            "better": better,
            "worse": worse,
            "margins": margins if self.with_margins else torch.zeros_like(margins),
            "weights": torch.tensor([1 / len(example["better"]) for example in examples for _ in example["better"]]),
            "items": len(examples),
            "trained_tokens": len(rows),
        }


@dataclass(frozen=True, slots=True)
class ClassCollator:
    """Texts as one batch."""

    laid: Laid

    def __call__(self, examples: list[Example]) -> dict[str, Any]:
        """Texts as rows, and their classes."""
        return self.laid.batch([example["input_ids"] for example in examples]) | {
            "classes": torch.tensor([example["class"] for example in examples]),
            "items": len(examples),
            "trained_tokens": len(examples),
        }


def answers_of(example: Example) -> list[list[int]]:
    """The answers of an example, each as its token ids."""
    ends = [sum(example["lengths"][: place + 1]) for place in range(len(example["lengths"]))]
    return [example["input_ids"][end - length : end] for end, length in zip(ends, example["lengths"], strict=True)]


def scored_pairs(data: PairDataset, score: Callable[[list[list[int]]], torch.Tensor]) -> tuple[Floats, ScoredPairs]:
    """The scores of all answers, and the pairs with theirs, prompt after prompt.

    `score` gives the scores of rows of token ids, shape (rows,); an answer of several pairs is scored once.
    """
    rows, better, worse, prompts = list[list[int]](), list[int](), list[int](), list[int]()
    indexes: list[int] = []
    for number in range(len(data)):
        example = data[number]
        better += [len(rows) + place for place in example["better"]]
        worse += [len(rows) + place for place in example["worse"]]
        prompts += [number] * len(example["better"])
        indexes += example["row"]
        rows += answers_of(example)
    scores: Floats = score(rows).double().numpy()
    better_tokens, worse_tokens = (side.trained_counts[indexes] for side in (data.prepared, data.rejected))
    return scores, ScoredPairs(scores[better], scores[worse], better_tokens, worse_tokens, np.array(prompts))


def _prompts(prepared: Prepared) -> Sequence[list[int]]:
    """The pairs of each prompt as indexes, in the order in which the prompts first come."""
    seen: Counter[tuple[int, int]] = Counter()
    prompts: dict[tuple[int, int, int], list[int]] = {}
    places = zip(prepared.which.tolist(), prepared.rows.tolist(), prepared.numbers.tolist(), strict=True)
    for index, (which, row, number) in enumerate(places):
        prompts.setdefault((which, number, seen[which, row]), []).append(index)
        seen[which, row] += 1
    return list(prompts.values())
