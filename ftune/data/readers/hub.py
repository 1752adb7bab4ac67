"""Hub data sets, through `datasets`; never a loading script, and never a wait without an end."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from threading import Thread
from typing import Any, TypeVar

from ftune.core.errors import DataError
from ftune.data.row import Row

PROBE_S = 30.0
"""How long the hub may take to say that it knows the data set."""

R = TypeVar("R")


def hub_rows(path: str, *, name: str | None, split: str, revision: str | None) -> Iterator[Row]:
    """The rows of one split; a row's `file` is the data set's name and its `line` its number. Raises DataError."""
    for number, values in enumerate(_dataset(path, name, split, revision), 1):
        yield Row(dict(values), f"{path}[{split}]", number)


def hub_fingerprint(path: str, *, name: str | None, split: str, revision: str | None) -> str:
    """The key that `datasets` gives to the split; it follows from commit and configuration. Raises DataError."""
    return str(_dataset(path, name, split, revision)._fingerprint)


def _dataset(path: str, name: str | None, split: str, revision: str | None) -> Any:
    from datasets import load_dataset

    cause = _probe(path, revision)
    try:
        with _offline() if cause else nullcontext():
            return load_dataset(path, name, split=split, revision=revision)
    except Exception as error:  # the library raises every kind; all are the user's to solve
        raise DataError(_unreadable(path, split, cause or str(error).splitlines()[0])) from None


@contextmanager
def _offline() -> Iterator[None]:
    """Only what is cached already: without this, `datasets` goes on trying for 20 s and more."""
    from datasets import config

    before, config.HF_HUB_OFFLINE = config.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        config.HF_HUB_OFFLINE = before


def _probe(path: str, revision: str | None) -> str:
    """Why the hub cannot give this data set within the deadline; empty when it can."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        within(PROBE_S, lambda: HfApi().dataset_info(path, revision=revision, timeout=PROBE_S / 2))
    except HfHubHTTPError as error:
        return str(error).splitlines()[0]
    except Exception as error:  # no network has many faces
        return f"the hub cannot be reached ({type(error).__name__})"
    return ""


def _unreadable(path: str, split: str, cause: str) -> str:
    return (
        f"{path}: no such file or folder here, and as a hub data set (split '{split}') it cannot be read: {cause}; "
        "without network, copy its files here and name their folder, or one of them, instead"
    )


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
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError(f"no answer within {seconds:.0f} s")
    return results[0]
