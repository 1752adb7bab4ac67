"""Signs of degenerate text, from token ids alone."""

from collections.abc import Iterator, Sequence


def distinct(token_lists: Sequence[Sequence[int]], n: int) -> float:
    """Share of different n-grams among all n-grams of all lists (distinct-n: Li et al. 2016, arXiv 1510.03055).

    1 where no list has n tokens. No n-gram reaches over the end of a list.
    """
    grams = [gram for tokens in token_lists for gram in _grams(tokens, n)]
    return len(set(grams)) / len(grams) if grams else 1.0


def repetition(tokens: Sequence[int], n: int = 3) -> float:
    """Share of n-grams that occurred earlier in the same list; 0 for fewer than n tokens."""
    return 1.0 - distinct([tokens], n)


def _grams(tokens: Sequence[int], n: int) -> Iterator[tuple[int, ...]]:
    return (tuple(tokens[start : start + n]) for start in range(len(tokens) - n + 1))
