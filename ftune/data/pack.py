"""Packing: several rows in one sequence, best fit decreasing; nothing is cut and nothing is lost."""

from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Sequence


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
