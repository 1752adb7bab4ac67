"""An end to waiting for others."""

import time
from collections.abc import Callable
from threading import Event, Thread
from typing import TypeVar

R = TypeVar("R")

LOOK_S = 0.1
"""How often it is looked whether somebody still waits."""


def within(seconds: float, call: Callable[[], R], ended: Event | None = None) -> R:
    """The result of `call`. The call is left behind in its thread when it takes longer, or nobody waits any more.

    Raises what the call raises, and TimeoutError where it is left behind; `ended` says that nobody waits.
    """
    results: list[R] = []
    errors: list[Exception] = []

    def work() -> None:
        try:
            results.append(call())
        except Exception as error:  # handed on to the caller
            errors.append(error)

    thread = Thread(target=work, daemon=True)
    thread.start()
    end = time.monotonic() + seconds
    while thread.is_alive() and (left := end - time.monotonic()) > 0 and not (ended and ended.is_set()):
        thread.join(min(left, LOOK_S))
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError(
            "nobody waits for it any more" if ended and ended.is_set() else f"no answer within {seconds:.0f} s"
        )
    return results[0]
