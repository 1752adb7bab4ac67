"""How far a long piece of work is: done, speed and time left."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

from ftune.core.say import Say

TELL_S = 10.0
"""Seconds between two lines where there is no terminal."""

Advance = Callable[[int], None]


def counted(count: float) -> str:
    """A plain number."""
    return f"{count:,.0f}" if count >= 10 else f"{count:.1f}".removesuffix(".0")


def gigabytes(count: float) -> str:
    """A number of bytes."""
    return f"{count / 1e9:.2f} GB"


@contextmanager
def ticking(say: Say, what: str, total: int, shown: Callable[[float], str] = counted) -> Iterator[Advance]:
    """Gives what is to be called with the size of each piece that is done; nothing is said of short work.

    On a terminal one line changes in place, elsewhere there is a line every ten seconds.
    """
    done, started = 0, time.monotonic()
    told = started
    status = say.console.status(what) if say.console.is_terminal else nullcontext()
    with status as live:

        def advance(count: int) -> None:
            nonlocal done, told
            done += count
            now = time.monotonic()
            speed = done / max(now - started, 1e-3)
            words = (
                f"{what}: {shown(done)} of {shown(total)}, {shown(speed)} a second, "
                f"{(total - done) / max(speed, 1e-9):.0f} s left"
            )
            if live is not None:
                live.update(words)
            elif now - told >= TELL_S and done < total:
                say.line(f"  {words}")
                told = now

        yield advance


class Steps:
    """Turns "so many are done by now" into "so many more are done"."""

    def __init__(self, advance: Advance) -> None:
        self._advance, self._before = advance, 0

    def __call__(self, done: int) -> None:
        """`done` in all."""
        self._advance(done - self._before)
        self._before = done
