"""When an iteration's updates have gone far enough."""

import pytest

from ftune.rl.guard import stops_epoch


@pytest.mark.parametrize(("kl", "stops"), [(0.0, False), (0.15, False), (0.1501, True), (float("nan"), True)])
def test_an_epoch_ends_half_again_above_the_target(kl: float, stops: bool) -> None:
    assert stops_epoch(kl, target=0.1) is stops
