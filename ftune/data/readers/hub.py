"""Hub data sets, through `datasets`; never a loading script, and never a wait without an end."""

from collections.abc import Callable, Iterator
from threading import Thread
from typing import Any, TypeVar

from ftune.core.errors import DataError
from ftune.data.row import Row

PROBE_S = 30.0
"""How long the hub may take to say that it knows the data set."""

R = TypeVar("R")


def hub_rows(path: str, *, name: str | None, split: str, revision: str | None) -> Iterator[Row]:
    """The rows of one split; a row's `file` is the data set's name and its `line` its number."""
    for number, values in enumerate(_dataset(path, name, split, revision), 1):
        yield Row(dict(values), f"{path}[{split}]", number)


def _dataset(path: str, name: str | None, split: str, revision: str | None) -> Any:
    from datasets import DownloadConfig, load_dataset

    reached, cause = _probe(path, revision)
    local = DownloadConfig(local_files_only=not reached)
    try:
        return load_dataset(path, name, split=split, revision=revision, download_config=local)
    except Exception as error:  # the library raises every kind; all are the user's to solve
        raise DataError(_unreadable(path, split, cause or str(error).splitlines()[0])) from None


def _probe(path: str, revision: str | None) -> tuple[bool, str]:
    """Whether the hub answers for this data set within the deadline, and if not, why."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        within(PROBE_S, lambda: HfApi().dataset_info(path, revision=revision, timeout=PROBE_S / 2))
    except HfHubHTTPError as error:
        return False, str(error).splitlines()[0]
    except Exception as error:  # no network has many faces
        return False, f"the hub cannot be reached ({type(error).__name__})"
    return True, ""


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
