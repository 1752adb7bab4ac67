"""A process that is lost or fails is known to the others at once, and one that leaves is not lost."""

import queue
import threading
from collections.abc import Iterator

import pytest

from ftune.backends.lifeline import Lifeline, Loss

Pair = tuple[Lifeline, Lifeline]


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pair]:
    """The first process and the second one, in two threads."""
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    places: queue.Queue[str] = queue.Queue()
    made: dict[int, Lifeline] = {}

    def second() -> None:
        made[1] = Lifeline(1, 2, publish=places.put, find=lambda: places.get(timeout=10))

    thread = threading.Thread(target=second)
    thread.start()
    made[0] = Lifeline(0, 2, publish=places.put, find=places.get)
    thread.join(10)
    yield made[0], made[1]
    made[1].close()
    made[0].close()


def test_a_connection_that_is_cut_is_a_lost_process(pair: Pair) -> None:
    first, second = pair
    second._closing = True
    second._hang_up()
    loss = first.wait(5)
    assert loss is not None
    assert (loss.rank, loss.words) == (1, "")
    assert "process 1" in str(loss)
    assert "gone without a word" in str(loss)


@pytest.mark.parametrize("who", [0, 1])
def test_a_failure_comes_with_its_words_and_its_code(pair: Pair, who: int) -> None:
    pair[who].fail("rows.jsonl:7: no answer", 2)
    loss = pair[1 - who].wait(5)
    assert loss == Loss(who, loss.host if loss else "", "rows.jsonl:7: no answer", 2)
    assert str(loss).endswith("failed: rows.jsonl:7: no answer")


def test_who_leaves_in_peace_is_not_lost_and_the_first_leaves_last(pair: Pair) -> None:
    first, second = pair
    waiting = threading.Thread(target=first.close)
    waiting.start()
    waiting.join(0.2)
    assert waiting.is_alive()
    second.close()
    waiting.join(5)
    assert not waiting.is_alive()
    assert first.loss is second.loss is None
