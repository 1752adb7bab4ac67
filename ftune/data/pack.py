"""Packing: several rows in one sequence, best fit decreasing; nothing is cut and nothing is lost."""

from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Sequence
from typing import TypedDict

from ftune.data.prepare import Prepared


class PackedRow(TypedDict):
    """One packed sequence; its documents stand one after another, `seq_lengths` long.

    The first label of every document is -100: nothing of its own comes before it.
    """

    input_ids: list[int]
    labels: list[int]
    seq_lengths: list[int]
    row: list[int]
    """The documents as indexes into the prepared rows."""


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Bins of row indexes whose lengths add up to at most `capacity`; every row is in exactly one bin.

    Best fit decreasing: longest rows first, each into the fullest bin that has room. Bins are in the order in which
    they were opened, the rows of a bin in the order of the data. Deterministic; O(n log n) for usual capacities.
    Raises ValueError for a row that fits nowhere.
    """
    bins: list[list[int]] = []
    with_room: dict[int, list[int]] = defaultdict(list)
    rooms: list[int] = []  # the keys of with_room, sorted
    for index in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        length = lengths[index]
        if length > capacity:
            raise ValueError(f"row {index} has {length} tokens, more than the {capacity} of a packed sequence")
        place = bisect_left(rooms, length)
        if place < len(rooms):
            room = rooms[place]
            chosen = with_room[room].pop()
            if not with_room[room]:
                del rooms[place]
        else:
            room, chosen = capacity, len(bins)
            bins.append([])
        bins[chosen].append(index)
        left = room - length
        if not with_room[left]:
            insort(rooms, left)
        with_room[left].append(chosen)
    return [sorted(rows) for rows in bins]


def pack_rows(prepared: Prepared, capacity: int, indexes: Sequence[int] | None = None) -> list[PackedRow]:
    """The prepared rows (or those at `indexes`) as packed sequences of at most `capacity` tokens."""
    chosen = range(len(prepared.input_ids)) if indexes is None else indexes
    bins = pack([len(prepared.input_ids[index]) for index in chosen], capacity)
    return [_packed(prepared, [chosen[place] for place in rows]) for rows in bins]


def _packed(prepared: Prepared, rows: list[int]) -> PackedRow:
    return PackedRow(
        input_ids=[token for row in rows for token in prepared.input_ids[row]],
        labels=[label for row in rows for label in prepared.labels[row]],
        seq_lengths=[len(prepared.input_ids[row]) for row in rows],
        row=rows,
    )
