"""The tensor code of spherical interpolation (Shoemake, SIGGRAPH 1985)."""

from math import acos, sin, sqrt

from torch import Tensor

from ftune.merge.engines.combined import in_pieces, weighted_sum

STRAIGHT = 1e-3
"""Sine of the angle below which the line stands for the arc: they differ by less than fp32 can tell (angle^2 / 8), and
dividing by a smaller sine would magnify the rounding errors of opposite tensors."""


def slerp(first: Tensor, second: Tensor, t: float) -> Tensor:
    """The point at `t`, from 0 to 1, of the arc from `first` to `second`."""
    angle = angle_between(first, second)
    if sin(angle) < STRAIGHT:
        return weighted_sum([first, second], [1 - t, t])
    return weighted_sum([first, second], [sin((1 - t) * angle) / sin(angle), sin(t * angle) / sin(angle)])


def angle_between(first: Tensor, second: Tensor) -> float:
    """The angle in radians, summed up in fp64; 0 if one of them is all zeros."""
    product = first_square = second_square = 0.0
    for some, others in in_pieces(first, second):
        one, other = some.double(), others.double()
        product += float(one @ other)
        first_square += float(one @ one)
        second_square += float(other @ other)
    lengths = sqrt(first_square) * sqrt(second_square)
    return acos(max(-1.0, min(1.0, product / lengths))) if lengths else 0.0
