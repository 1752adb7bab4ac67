"""Rows cut into micro-batches: none lost, in their order, as few and as equal as a search through all cuts finds."""

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from ftune.trainers.regroup import Rows, regrouped

micro_batches = st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=3), min_size=1, max_size=4)


def rows_of(lengths: list[list[int]]) -> list[Rows]:
    return [Rows([{"input_ids": [0] * length, "row": length} for length in some]) for some in lengths]


def best_cut(lengths: list[int], capacity: int) -> tuple[int, int]:
    """How many groups are needed, and the tokens that the largest of so many needs to have: by trying all cuts."""
    for groups in range(1, len(lengths) + 1):
        cuts = combinations(range(1, len(lengths)), groups - 1)
        parts = [[lengths[i:j] for i, j in zip([0, *cut], [*cut, None], strict=True)] for cut in cuts]
        largest = min(max(sum(part) for part in cut) for cut in parts)
        if largest <= capacity:
            return groups, largest
    raise AssertionError


@given(micro_batches, st.integers(1, 40))
def test_groups_are_as_few_and_as_equal_as_can_be(lengths: list[list[int]], capacity: int) -> None:
    groups = regrouped(rows_of(lengths), capacity)
    sizes = [[len(example["input_ids"]) for example in group] for group in groups]
    rows = [length for some in lengths for length in some]
    assert [length for size in sizes for length in size] == rows
    assert all(sizes)
    room = max(capacity, *map(sum, lengths))
    assert (len(sizes), max(map(sum, sizes))) == best_cut(rows, room)
    assert len(sizes) <= len(lengths)


def test_halves_are_halves() -> None:
    groups = regrouped(rows_of([[4, 4], [4, 4], [4, 4]]), 20)
    assert [len(group) for group in groups] == [3, 3]
