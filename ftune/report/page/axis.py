"""Axes: round numbers to put ticks at, and their labels."""

import math
from collections.abc import Callable


def ticks(low: float, high: float, most: int, *, whole: bool = False) -> list[float]:
    """At most `most` (2 or more) round numbers from `low` to `high`, equally far apart; `whole` keeps to integers.

    There may be none between two integers. `low` must be less than `high`.
    """
    step = 10.0 ** math.floor(math.log10((high - low) / most))
    size = next(step * times for times in (1, 2, 5, 10, 20) if (high - low) / (step * times) <= most - 1)
    if whole:
        size = max(round(size), 1)
    first = math.ceil(low / size - 1e-9)
    last = math.floor(high / size + 1e-9)
    return [count * size for count in range(first, last + 1)]


def tick_label(value: float, apart: float, number: Callable[[float], str]) -> str:
    """A tick's label, with as many digits as neighbours that are `apart` need to differ.

    `number` is how the panel writes a value; powers and percent keep their form.
    """
    form = number(0.5)
    if "e" in form:
        return number(value)
    scale = 100 if form.endswith("%") else 1
    return decimal(value * scale, apart * scale) + ("%" if scale == 100 else "")


def decimal(value: float, apart: float) -> str:
    """A number with the decimals that a distance needs, and short where it is large."""
    for least, size, letter in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if abs(value) >= least and apart >= size / 1000:
            return decimal(value / size, apart / size) + letter
    if value and abs(value) < 1e-4:
        return f"{value:.2g}"
    decimals = max(0, -math.floor(math.log10(apart) + 1e-9)) if apart < 1 else 0
    return f"{value or 0:,.{min(decimals, 6)}f}"
