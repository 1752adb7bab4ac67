"""Rewards from a service on this machine: what is sent, and what becomes of every kind of answer."""

from collections.abc import Iterator
from datetime import date
from typing import Any

import pytest
from pydantic import ValidationError

from ftune.core import post
from ftune.core.errors import RewardError
from ftune.rewards.base import Surroundings
from ftune.rewards.http import Http
from tests.rewards.conftest import chat, said
from tests.stand_in_server import Reply, StandIn, serving


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """The server, at work; retries come at once."""
    monkeypatch.setattr(post, "FIRST_WAIT_S", 0.0)
    with serving(lambda _: Reply(b"[0]"), "/score") as made:
        yield made


def score(service: StandIn, **keys: Any) -> list[float | None]:
    """Two samples, scored."""
    return Http(url=service.url, **keys).open(Surroundings())(said("the cat", "sat"))


@pytest.mark.parametrize("body", [b'{"rewards": [1, null]}', b"[1.0, null]"])
def test_an_object_or_a_list_is_an_answer(service: StandIn, body: bytes) -> None:
    service.replies(Reply(body))
    assert score(service) == [1.0, None]


def test_what_is_sent(service: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCORE_TOKEN", "secret")
    source = Http(url=service.url, columns=["level", "none"], token_env="SCORE_TOKEN")
    source.open(Surroundings())([chat("hi", "the cat", columns={"level": date(2026, 1, 31), "other": 4})])
    ((path, headers, question),) = service.asked
    assert path == "/score"
    assert headers["Authorization"] == "Bearer secret"
    assert question == {
        "prompts": [[{"role": "user", "content": "hi"}]],
        "completions": [[{"role": "assistant", "content": "the cat"}]],
        "columns": {"level": ["2026-01-31"], "none": [None]},
    }
    assert "secret" not in source.model_dump_json()


def test_the_token_does_not_follow_to_where_the_service_points(
    service: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCORE_TOKEN", "secret")
    service.replies(Reply(b"", 302, {"Location": service.url}), Reply(b"[0, 0]"))
    score(service, token_env="SCORE_TOKEN")
    assert ["Authorization" in headers for _, headers, _ in service.asked] == [True, False]


def test_a_busy_service_is_asked_again(service: StandIn) -> None:
    service.replies(Reply(b"busy", 503), Reply(b"busy", 429), Reply(b"[1, 2]"))
    assert score(service) == [1.0, 2.0]
    assert len(service.asked) == 3


@pytest.mark.parametrize(
    ("reply", "tries", "message"),
    [
        (Reply(b"busy", 503), 2, r"answered 503 .*: busy \(after 2 tries\)"),
        (Reply(b"who?", 401), 1, r"answered 401 .*: who\?$"),
        (Reply(b"<html>"), 1, "answered no JSON: <html>"),
        (Reply(b"[" * 100_000), 1, r"answered no JSON: \[\["),
        (Reply(b"[" + b"0," * 2**21 + b"0]"), 1, r"answered more than 4,194,304 bytes"),
        (Reply(b'{"scores": [1, 2]}'), 1, "without 'rewards'"),
        (Reply(b"[1]"), 1, "1 numbers for 2 samples"),
        (Reply(b"[1, NaN]"), 1, r"rows\.jsonl:2: returned nan"),
        (Reply(b'[1, "2"]'), 1, r"rows\.jsonl:2: returned '2' \(str\)"),
        (Reply(b'{"rewards": "high"}'), 1, r"returned 'high' \(str\)"),
        (Reply(b"[1, ", unsent=9), 2, r"broke off: 4 bytes came, 9 did not \(after 2 tries"),
        (Reply(b"", silent=True), 2, r"did not answer: .*\(after 2 tries\)"),
        (Reply(b"", drips=True), 2, r"did not answer: no answer within 0 s \(after 2 tries\)"),
        (Reply(b"", 302, {"Location": "http://localhost:99999/"}), 2, "did not answer: "),
    ],
    ids=lambda each: repr(each.body[:20]) if isinstance(each, Reply) else "",
)
def test_what_is_wrong_with_an_answer_is_said(service: StandIn, reply: Reply, tries: int, message: str) -> None:
    service.replies(reply)
    with pytest.raises(RewardError, match=message):
        score(service, retries=1, timeout_s=0.2)
    assert len(service.asked) == tries


def test_nobody_there(service: StandIn) -> None:
    with pytest.raises(RewardError, match="did not answer"):
        Http(url="http://127.0.0.1:9/", retries=0).open(Surroundings())(said("a"))


@pytest.mark.parametrize(
    "url", ["ftp://a/b", "localhost:1", "http://", "http://me:word@host/", "http://h:99999/", "http://ä/"]
)
def test_other_addresses_are_refused(url: str) -> None:
    with pytest.raises(ValidationError):
        Http(url=url)


@pytest.mark.parametrize(
    ("value", "message"), [(None, "not set"), ("", "not set"), ("se\ncret", "ASCII"), ("sécret", "ASCII")]
)
def test_a_token_that_cannot_be_sent_is_a_fault(
    value: str | None, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SCORE_TOKEN", raising=False)
    if value is not None:
        monkeypatch.setenv("SCORE_TOKEN", value)
    source = Http(url="http://localhost/", token_env="SCORE_TOKEN")
    ((place, problem),) = source.faults()
    assert place == ("token_env",)
    assert message in problem
    with pytest.raises(RewardError, match="token_env: the ") as error:
        source.open(Surroundings())
    assert "cret" not in str(error.value)


def test_a_token_in_place_of_its_name_is_refused_and_one_that_is_sent_back_is_not_shown(
    service: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = "tk-secret-0123456789"
    with pytest.raises(ValidationError) as refused:
        Http(url="http://localhost/", token_env=token)
    assert token not in refused.value.errors()[0]["msg"]
    monkeypatch.setenv("SCORE_TOKEN", token)
    service.replies(Reply(f"{'_' * 190}{token} is unknown".encode(), 401))
    with pytest.raises(RewardError, match=r"\[key\]") as error:
        score(service, token_env="SCORE_TOKEN")
    assert token[:8] not in str(error.value)
