"""Numbers of a device are read together, as they are and in their order."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ftune.trainers.numbers import reading

HALF = torch.tensor(0.5, dtype=torch.bfloat16)
LARGE = torch.tensor(2**40 + 1)
"""More than a float of 32 bits can tell from its neighbours."""


class Readings(TorchDispatchMode):
    """Counts the times that one number is taken out of a tensor: on a GPU each of them waits for it."""

    count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


def test_tensors_and_numbers_come_in_their_order() -> None:
    assert reading([HALF, 2.5, LARGE, torch.tensor([3.0], requires_grad=True)]).result() == [0.5, 2.5, 2**40 + 1, 3.0]
    assert reading([1, 2.0]).result() == [1.0, 2.0]


def test_no_number_is_taken_by_itself() -> None:
    with Readings() as readings:
        reading([HALF, LARGE, torch.tensor(1.0)]).result()
        assert readings.count == 0
        float(HALF)
    assert readings.count == 1
