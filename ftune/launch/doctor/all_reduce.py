"""Times all-reduces between the processes of a run, and checks the result of each."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

KIB, MIB = 2**10, 2**20
SIZES = [KIB * 4**power for power in range(10)]
"""Bytes of a message: 1 KiB, 4 KiB, ... 256 MiB; the step between is 4."""
LARGEST_ON_CPU = 16 * MIB
MANY, FEW = 20, 5
"""Repetitions of messages up to 1 MiB and of larger ones, after two that do not count."""
WARM_UP = 2
PERIOD, FACTORS = 251, 7
"""Values repeat after the first number, ranks after the second: sums stay whole numbers that fp32 holds exactly."""


@dataclass(frozen=True, slots=True)
class Timing:
    """All-reduces of one size."""

    bytes: int
    seconds: float
    """The median time of one, on the slowest process."""
    wrong: tuple[int, ...]
    """Ranks that got a wrong sum at least once."""


def bus_bandwidth(size: int, seconds: float, processes: int) -> float:
    """Bytes a second that the slowest link carries: `2 (n - 1) / n * size / seconds`.

    In a ring each of n processes sends and receives 2 (n - 1) / n of the message; so the number can be compared with
    the speed of the hardware, for any number of processes. Source: NVIDIA, nccl-tests, doc/PERFORMANCE.md, "AllReduce".
    """
    return 2 * (processes - 1) / processes * size / seconds


def sizes(*, on_gpu: bool) -> list[int]:
    """Bytes of the messages that are timed."""
    return [size for size in SIZES if on_gpu or size <= LARGEST_ON_CPU]


def measure(messages: Sequence[int], device: "torch.device") -> Iterator[Timing]:
    """Time all-reduces of fp32 sums of these sizes; the process group must be open.

    Each process starts together with the others, so that it is the message that is timed and not the wait for them.
    """
    import torch
    import torch.distributed as dist

    rank, count = dist.get_rank(), dist.get_world_size()
    for size in messages:
        pattern = torch.arange(size // 4, device=device).remainder_(PERIOD).add_(1).float()
        expected = pattern * sum(factor(other) for other in range(count))
        own = pattern * factor(rank)
        buffer = torch.empty_like(own)
        times: list[float] = []
        is_right = True
        for turn in range(WARM_UP + (MANY if size <= MIB else FEW)):
            buffer.copy_(own)
            _together(device)
            begun = time.perf_counter()
            dist.all_reduce(buffer)
            _finish(device)
            if turn >= WARM_UP:
                times.append(time.perf_counter() - begun)
            is_right = is_right and torch.equal(buffer, expected)
        mine = torch.tensor([median(times), float(is_right)], dtype=torch.float64, device=device)
        gathered = [torch.empty_like(mine) for _ in range(count)]
        dist.all_gather(gathered, mine)
        found = [each.tolist() for each in gathered]
        yield Timing(
            size, max(seconds for seconds, _ in found), tuple(other for other in range(count) if not found[other][1])
        )


def factor(rank: int) -> int:
    """What a rank's values are multiplied by, so that no two neighbours send the same."""
    return rank % FACTORS + 1


def _together(device: "torch.device") -> None:
    import torch.distributed as dist

    dist.barrier(device_ids=[device.index] if device.type == "cuda" else None)
    _finish(device)


def _finish(device: "torch.device") -> None:
    """Wait for the GPU; a CPU's all-reduce has ended when it returns."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
