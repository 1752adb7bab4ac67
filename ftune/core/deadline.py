"""An end to waiting for others."""

from collections.abc import Callable
from threading import Thread
from typing import TypeVar

R = TypeVar("R")


def within(seconds: float, call: Callable[[], R]) -> R:
    """The result of `call`, or TimeoutError when it takes longer; the call is then left behind in its thread."""
    results: list[R] = []
    errors: list[Exception] = []

    def work() -> None:
        try:
            results.append(call())
        except Exception as error:  # handed on to the caller
            errors.append(error)

    thread = Thread(target=work, daemon=True)
    thread.start()
    thread.join(max(seconds, 0.0))
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError(f"no answer within {seconds:.0f} s")
    return results[0]
