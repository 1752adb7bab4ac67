"""Steps made ahead are the steps made on demand: same rows, same order, at most one of them before its time."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from ftune.trainers.feed import Example
from ftune.trainers.regroup import Rows
from ftune.trainers.step_feed import Batch, Step, StepFeed


def drawn(count: int, seen: list[int]) -> Iterator[Rows]:
    """Micro-batches of one row, each of one token more; `seen` are those that somebody has asked for."""
    for number in range(count):
        seen.append(number)
        yield Rows([{"input_ids": [number] * (number + 1)}])


def collate(examples: list[Example]) -> Batch:
    return {"rows": [example["input_ids"][0] for example in examples]}


def steps(feed: StepFeed, count: int) -> list[Step]:
    taken = []
    while (step := feed.take(count)).drawn:
        taken.append(step)
    return taken


@pytest.mark.parametrize("capacity", [None, 1, 12, 1000])
def test_a_thread_changes_no_step(capacity: int | None) -> None:
    alone = steps(StepFeed(drawn(11, []), collate, capacity), 4)
    with ThreadPoolExecutor(1) as thread:
        assert steps(StepFeed(drawn(11, []), collate, capacity, thread), 4) == alone
    assert [step.drawn for step in alone] == [4, 4, 3]
    assert [row for step in alone for batch in step.batches for row in batch["rows"]] == list(range(11))
    if capacity in (None, 1000):
        assert [len(step.batches) for step in alone] == ([4, 4, 3] if capacity is None else [1, 1, 1])


def test_one_step_is_made_ahead_and_no_more() -> None:
    seen: list[int] = []
    with ThreadPoolExecutor(1) as thread:
        feed = StepFeed(drawn(20, seen), collate, None, thread)
        feed.take(3)
        feed.close()
        assert seen == list(range(6))
    seen.clear()
    StepFeed(drawn(20, seen), collate).take(3)
    assert seen == list(range(3))


def test_a_fault_in_the_thread_is_raised_when_its_step_is_asked_for() -> None:
    def faulty(examples: list[Example]) -> Batch:
        if examples[0]["input_ids"][0] == 1:
            raise ValueError(threading.current_thread().name)
        return collate(examples)

    with ThreadPoolExecutor(1, "batches") as thread:
        feed = StepFeed(drawn(5, []), faulty, None, thread)
        assert feed.take(1).batches == [{"rows": [0]}]
        feed.close()
        with pytest.raises(ValueError, match="batches") as raised:
            feed.take(1)
    assert [entry.name for entry in raised.traceback][-1] == "faulty"
