"""A finished folder on the hub: one step that can be repeated, with an end to every wait."""

import random
import re
import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

from ftune.core.checkpoints import MANIFEST, verify
from ftune.core.deadline import within
from ftune.core.errors import LaunchError, ModelError
from ftune.core.say import Say

R = TypeVar("R")

ANSWER_S = 60.0
"""How long the hub may take for one step, attempts included; an upload has the time of its bytes on top."""

SLOWEST_BYTES_PER_S = 2**20

BUSY = {429, 500, 502, 503, 504}
DENIED = {401, 403}

_NAME = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"
_REPO_ID = re.compile(f"{_NAME}/{_NAME}")


def repo_fault(repo_id: str) -> str:
    """What is wrong with the name of a repository on the hub; empty when nothing is. Asks no network."""
    if not _REPO_ID.fullmatch(repo_id) or len(repo_id) > 96:
        return (
            f"'{repo_id}' is no name of a repository; give ORG/NAME of letters, digits, '-', '_' and '.', "
            "not beginning or ending with '-' or '.', 96 characters at most"
        )
    if "--" in repo_id or ".." in repo_id or repo_id.endswith(".git"):
        return f"'{repo_id}' is no name of a repository: the hub has none with '--' or '..', or that end in '.git'"
    return ""


def push_folder(folder: Path, repo_id: str, *, private: bool, say: Say) -> str:
    """Upload the files of `folder` as one commit to the model repository `repo_id`, made if need be; returns its URL.

    The token is that of `HF_TOKEN` or `hf auth login`; it is in no message. A repository that exists keeps its
    visibility, and one that all can read is refused where `private` is asked for. What was uploaded already is not sent
    again.

    Raises ModelError for a bad name or folder, LaunchError where the hub refuses, is busy for too long or is silent.
    """
    from huggingface_hub import HfApi, constants, get_session, get_token

    if fault := repo_fault(repo_id) or _folder_fault(folder):
        raise ModelError(f"push: {fault}")
    push = _Push(repo_id, f"hf upload {repo_id} {shlex.quote(str(folder))}{' --private' * private}", get_token() or "")
    if constants.HF_HUB_OFFLINE:
        raise push.error("HF_HUB_OFFLINE is set; unset it")
    if not push.token:
        raise push.error("there is no token; run 'hf auth login' or set HF_TOKEN")
    api = HfApi(token=push.token)
    # waits for ever by itself (seen in huggingface_hub 2.4), at the exit too; longer than `answer`, which says more
    get_session().timeout = 2 * ANSWER_S
    url = str(push.answer(ANSWER_S, lambda: api.create_repo(repo_id, private=private, exist_ok=True)))
    if private and not push.answer(ANSWER_S, lambda: api.model_info(repo_id)).private:
        raise push.error("exists, and all can read it; make it private on its page, or choose another name")
    files = [path for path in folder.rglob("*") if path.is_file()]
    total = sum(path.stat().st_size for path in files)
    say.line(f"uploading {len(files)} files ({total / 1e6:,.1f} MB) to {url}")
    seconds = ANSWER_S + total / SLOWEST_BYTES_PER_S
    push.answer(seconds, lambda: api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message="Upload model"))
    return url


def _folder_fault(folder: Path) -> str:
    if not folder.is_dir():
        return f"no such folder '{folder}'"
    if not any(folder.glob("*.safetensors")) and not any(folder.glob("*.gguf")):
        return f"folder '{folder}' holds no weights (.safetensors or .gguf)"
    if (folder / MANIFEST).is_file() and (problems := verify(folder)):
        return f"folder '{folder}' is damaged: {problems[0]}; make it again"
    return ""


@dataclass(frozen=True, slots=True)
class _Push:
    """What every step of a push needs to speak of it."""

    repo_id: str
    again: str
    token: str

    def answer(self, seconds: float, call: Callable[[], R]) -> R:
        """What the hub answers within `seconds`; a busy hub is asked again after pauses that grow and differ."""
        from huggingface_hub.errors import HfHubHTTPError

        end = time.monotonic() + seconds
        busy: HfHubHTTPError | None = None
        for attempt in count():
            try:
                return within(end - time.monotonic(), call)
            except HfHubHTTPError as error:
                pause = _pause(error.response, attempt)
                if error.response.status_code not in BUSY or time.monotonic() + pause > end:
                    raise self.error(_said(error)) from None
                busy = error
                time.sleep(pause)
            except TimeoutError:
                if busy is not None:  # it has answered before, and what it said tells more
                    raise self.error(_said(busy)) from None
                raise self.error(f"the hub did not answer within {seconds:.0f} s") from None
            except Exception as error:  # no network has many faces
                cause = next(iter(str(error).strip().splitlines()), type(error).__name__)
                raise self.error(f"the push failed: {cause}") from None
        raise AssertionError("counts without an end")

    def error(self, cause: str) -> LaunchError:
        """The one line that a person sees; the hub's own words could quote the token."""
        line = f"push: '{self.repo_id}': {cause}; try again: {self.again}"
        return LaunchError(re.sub(r"hf_\w{8,}", "hf_...", line.replace(self.token, "hf_...") if self.token else line))


def _pause(response: Any, attempt: int) -> float:
    """Seconds until the next try: what the hub asks for, or up to 1, 2, 4 and then 8, drawn so that many differ."""
    asked = response.headers.get("Retry-After", "")
    return float(asked) if asked.isdigit() else min(2.0**attempt, 8.0) * random.uniform(0.5, 1.0)  # noqa: S311


def _said(error: Any) -> str:
    status = error.response.status_code
    words = error.server_message or error.response.reason_phrase
    said = f"the hub answers {status} ({' '.join(str(words).split())})"
    return f"{said}; use a token that may write there: 'hf auth login' or HF_TOKEN" if status in DENIED else said
