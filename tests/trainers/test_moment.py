"""Time between moments: of the CPU, or of what a GPU computed, whatever else the CPU did meanwhile."""

import time

import pytest
import torch

from ftune.trainers.moment import Moment


def test_the_clock_goes_on() -> None:
    first = Moment("cpu")
    time.sleep(0.02)
    second = Moment("cpu")
    assert 0.02 <= first.seconds_to(second) < 1.0
    assert first.seconds_to(first) == 0.0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_has_its_own_time() -> None:
    torch.zeros(1, device="cuda")
    first = Moment("cuda")
    torch.cuda._sleep(10**8)  # cycles: some 50 ms
    second = Moment("cuda")
    time.sleep(0.3)
    third = Moment("cuda")
    assert 0.01 < first.seconds_to(second) < 0.2
    assert second.seconds_to(third) > 0.15
