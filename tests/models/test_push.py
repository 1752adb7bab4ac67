"""Uploads, against a hub of a few lines on this machine."""

import base64
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread

import pytest
from huggingface_hub import constants
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from hypothesis import given
from hypothesis import strategies as st

from ftune.core.checkpoints import commit_folder, stage_folder
from ftune.core.errors import LaunchError, ModelError
from ftune.core.say import Say
from ftune.models import push
from ftune.models.push import push_folder, repo_fault

TOKEN = "hf_" + "secretsecret"


@dataclass
class Hub:
    """What the stand-in holds, and how it is told to misbehave."""

    url: str = ""
    repos: dict[str, bool] = field(default_factory=dict)
    """Repositories, and whether each is private."""
    files: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    failures: dict[str, list[int]] = field(default_factory=dict)
    """Statuses that the next requests for a word in their path get."""
    silent: bool = False
    released: Event = field(default_factory=Event)

    def answer(self, path: str, body: bytes, token: str) -> tuple[int, dict[str, object]]:
        """Status and JSON for one request."""
        self.asked.append(path)
        if self.silent:
            self.released.wait(10)
        for word, statuses in self.failures.items():
            if word in path and statuses:
                return statuses.pop(0), {"error": f"no good: {token}"}
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            made = name not in self.repos
            self.repos.setdefault(name, asked.get("visibility") == "private")
            return 200 if made else 409, {"url": f"{self.url}/{name}", "error": "" if made else "exists"}
        if "/preupload/" in path:
            files = [one["path"] for one in json.loads(body)["files"]]
            return 200, {"files": [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in files]}
        if "/commit/" in path:
            for one in map(json.loads, body.splitlines()):
                if one["key"] == "file":
                    self.files[one["value"]["path"]] = base64.b64decode(one["value"]["content"])
            return 200, {"commitUrl": f"{self.url}/org/name/commit/{'a' * 40}", "commitOid": "a" * 40}
        name = path.removeprefix("/api/models/")
        return (200, {"id": name, "private": self.repos[name]}) if name in self.repos else (404, {"error": path})


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub on this machine that huggingface_hub takes for the real one, and a token for it."""
    state = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, words = state.answer(self.path.split("?")[0], body, self.headers.get("Authorization", ""))
            content = json.dumps(words).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST  # noqa: N815 - the name that http.server calls

        def log_message(self, *words: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", state.url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(push, "_pause", lambda response, attempt: 0.01)
    yield state
    state.released.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    target = tmp_path / "a model"
    staging = stage_folder(target)
    (staging / "config.json").write_text("{}")
    (staging / "model.safetensors").write_bytes(bytes(range(256)))
    commit_folder(staging, target)
    return target


@pytest.fixture
def refused(folder: Path) -> Callable[..., str]:
    """Pushes, and gives the one line of the failure."""

    def call(private: bool = False) -> str:
        with pytest.raises(LaunchError) as caught:
            push_folder(folder, "org/name", private=private, say=Say())
        line = str(caught.value)
        assert "\n" not in line
        assert "secretsecret" not in line
        assert f"try again: hf upload org/name '{folder}'" in line
        return line

    return call


def test_every_file_arrives_and_the_step_can_be_repeated(hub: Hub, folder: Path) -> None:
    for _ in range(2):
        assert push_folder(folder, "org/name", private=True, say=Say()) == f"{hub.url}/org/name"
    assert hub.repos == {"org/name": True}
    assert hub.files == {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_busy_hub_is_asked_again(hub: Hub, folder: Path) -> None:
    hub.failures = {"create": [503, 429], "commit": [503]}
    push_folder(folder, "org/name", private=False, say=Say())
    assert hub.asked.count("/api/repos/create") == 3
    assert set(hub.files) == {path.name for path in folder.iterdir()}


def test_a_hub_that_stays_busy_is_given_up(
    hub: Hub, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(push, "ANSWER_S", 1.0)
    hub.failures = {"create": [503] * 1000}
    assert "the hub answers 503 (no good: Bearer hf_...)" in refused()
    assert 2 < hub.asked.count("/api/repos/create") <= 101  # with 0.01 s between them


@pytest.mark.parametrize("status", [401, 403])
def test_a_token_that_may_not_write(hub: Hub, refused: Callable[..., str], status: int) -> None:
    hub.failures = {"create": [status], "org/name": [status]}
    line = refused(private=True)
    assert f"the hub answers {status}" in line
    assert "use a token that may write there" in line
    assert line.endswith("--private")
    assert not hub.files


def test_a_silent_hub_and_none_at_all(hub: Hub, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    hub.silent = True
    monkeypatch.setattr(push, "ANSWER_S", 0.2)
    began = time.monotonic()
    assert "did not answer within" in refused()
    assert time.monotonic() - began < 5
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    assert "Connection refused" in refused()


def test_what_is_asked_to_be_private_never_becomes_public(hub: Hub, refused: Callable[..., str]) -> None:
    hub.repos["org/name"] = False
    assert "all can read it" in refused(private=True)
    assert not hub.files


def test_without_a_network_or_a_token_nothing_is_asked(
    hub: Hub, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    assert "there is no token" in refused()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in refused()
    assert not hub.asked


def test_a_folder_that_is_no_model_or_damaged_is_not_pushed(hub: Hub, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such folder"):
        push_folder(tmp_path / "none", "org/name", private=False, say=Say())
    with pytest.raises(ModelError, match="holds no weights"):
        push_folder(tmp_path, "org/name", private=False, say=Say())
    (folder / "model.safetensors").write_bytes(bytes(256))
    with pytest.raises(ModelError, match=r"is damaged: model\.safetensors has the right size, but other content"):
        push_folder(folder, "org/name", private=False, say=Say())
    with pytest.raises(ModelError, match="is no name of a repository"):
        push_folder(folder, "org", private=False, say=Say())
    assert not hub.asked


@pytest.mark.parametrize(
    "name",
    ["", "name", "a/b/c", "org/", "/name", "org/na me", "org/-x", "org/x.", "o--g/x", "o/x..y", "o/x.git", "ö/x"],
)
def test_bad_names(name: str) -> None:
    assert repo_fault(name)


@given(st.from_regex(r"[A-Za-z0-9._-]{1,60}/[A-Za-z0-9._-]{1,60}", fullmatch=True))
def test_a_name_is_taken_exactly_when_the_hub_library_takes_it(name: str) -> None:
    try:
        validate_repo_id(name)
    except HFValidationError:
        assert repo_fault(name)
    else:
        assert not repo_fault(name) or len(name) > 96
