"""Hub data sets, through `datasets`; never a loading script, and never a wait without an end."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from typing import Any

from ftune.core.deadline import within
from ftune.core.errors import DataError
from ftune.data.row import Row

PROBE_S = 30.0
"""How long the hub may take to say that it knows the data set."""


def hub_rows(
    path: str, *, name: str | None, split: str, revision: str | None, streaming: bool = False
) -> Iterator[Row]:
    """The rows of one split; a row's `file` is the data set's name and its `line` its number. Raises DataError.

    `streaming` fetches rows as they are read, where the whole split is fetched first otherwise.
    """
    for number, values in enumerate(_dataset(path, name, split, revision, streaming), 1):
        yield Row(dict(values), f"{path}[{split}]", number)


def hub_fingerprint(path: str, *, name: str | None, split: str, revision: str | None, streaming: bool = False) -> str:
    """A key of the split's content. Raises DataError.

    It is the one that `datasets` gives to the fetched split; of a stream, commit, configuration and split.
    """
    if not streaming:
        return str(_dataset(path, name, split, revision, streaming)._fingerprint)
    commit, cause = _probe(path, revision)
    if cause:
        raise DataError(_unreadable(path, split, cause))
    return f"{path} {commit} {name} {split}"


@lru_cache(maxsize=8)
def _dataset(path: str, name: str | None, split: str, revision: str | None, streaming: bool) -> Any:
    from datasets import load_dataset

    _, cause = _probe(path, revision)
    try:
        with _offline() if cause else nullcontext():
            return load_dataset(path, name, split=split, revision=revision, streaming=streaming)
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


def _probe(path: str, revision: str | None) -> tuple[str, str]:
    """The commit that the hub has of this data set, and why it cannot give it within the deadline; one is empty."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        info = within(PROBE_S, lambda: HfApi().dataset_info(path, revision=revision, timeout=PROBE_S / 2))
    except HfHubHTTPError as error:
        return "", str(error).splitlines()[0]
    except Exception as error:  # no network has many faces
        return "", f"the hub cannot be reached ({type(error).__name__})"
    return str(info.sha), ""


def _unreadable(path: str, split: str, cause: str) -> str:
    return (
        f"{path}: no such file or folder here, and as a hub data set (split '{split}') it cannot be read: {cause}; "
        "without network, copy its files here and name their folder, or one of them, instead"
    )
