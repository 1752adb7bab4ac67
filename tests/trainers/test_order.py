"""The order of rows follows from seed and epoch, and every row comes once."""

from hypothesis import given
from hypothesis import strategies as st

from ftune.trainers.order import EpochOrder


@given(rows=st.integers(1, 200), seed=st.integers(0, 2**32 - 1), epoch=st.integers(0, 50))
def test_every_row_once_and_the_same_again(rows: int, seed: int, epoch: int) -> None:
    orders = [EpochOrder(rows, seed) for _ in range(2)]
    for order in orders:
        order.set_epoch(epoch)
    assert sorted(orders[0]) == list(range(rows))
    assert list(orders[0]) == list(orders[1])
    assert len(orders[0]) == rows


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    order, other = EpochOrder(100, 1), EpochOrder(100, 2)
    first = list(order)
    order.set_epoch(1)
    assert list(order) != first
    assert list(other) != first
