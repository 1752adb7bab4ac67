"""Guards against a policy that runs away."""

import pytest

from ftune.rl.guard import KlGuard, stops_epoch


@pytest.mark.parametrize(
    ("kl", "stops"), [(0.14, False), (0.15, False), (0.16, True), (-0.1, False), (float("nan"), True)]
)
def test_an_epoch_ends_above_one_and_a_half_times_the_target(kl, stops):
    assert stops_epoch(kl, 0.1) is stops


def test_the_limit_is_exceeded_after_as_many_rollouts_in_a_row_as_patience_says():
    guard = KlGuard(max_kl=10.0, patience=2)
    assert [guard.exceeded(kl) for kl in (11, 9, 11, 10, 11, 12, 13, 1)] == [False] * 5 + [True, True, False]


def test_a_divergence_that_is_not_a_number_is_above():
    assert KlGuard(max_kl=10.0, patience=1).exceeded(float("nan"))


def test_a_guard_goes_on_where_it_was():
    guard = KlGuard(max_kl=10.0, patience=2)
    guard.exceeded(11)
    assert KlGuard.from_state(guard.state(), max_kl=10.0, patience=2).exceeded(11)
