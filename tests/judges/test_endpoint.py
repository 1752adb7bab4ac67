"""A judge behind a service on this machine: what is sent, and what becomes of every kind of answer."""

import logging
import time
from typing import Any

import pytest
from pydantic import ValidationError

from ftune.core import post
from ftune.core.errors import LaunchError
from ftune.judges.base import Pair, Verdict
from ftune.judges.endpoint import Endpoint
from ftune.judges.orders import Choice
from ftune.judges.replies import choice_of
from ftune.judges.win_rate import win_rate
from ftune.rewards.base import Surroundings
from tests.judges.conftest import SHORT, pair, says
from tests.stand_in_server import Reply, StandIn

KEY = "sk-secret-0123456789abcdef"
SIX = [pair("a", "b", origin=f"rows.jsonl:{line}") for line in range(1, 7)]


def judge(service: StandIn, pairs: list[Pair], **keys: Any) -> tuple[list[Verdict], list[str]]:
    """The verdicts, and what was remarked."""
    remarks: list[str] = []
    given = {"url": service.url, "model": "big", "prompt": SHORT, "retries": 1, "concurrency": 1} | keys
    return Endpoint(**given).open(Surroundings(remark=remarks.append))(pairs), remarks


def answers(question: dict[str, Any]) -> tuple[str, str]:
    """The answers that a question shows as A and B."""
    lines = question["messages"][0]["content"].splitlines()
    found = {line[0]: line[2:] for line in lines if line.startswith(("A ", "B "))}
    return found["A"], found["B"]


def longer(question: dict[str, Any]) -> Reply:
    """A judge that likes long answers, those with an x not at all; it takes its time with the short ones."""
    first, second = answers(question)
    time.sleep(0.02 / len(first))
    if "x" in first + second:
        return says("I cannot say.")
    return says("Let me see.\n\nVerdict: " + ("tie" if len(first) == len(second) else "AB"[len(second) > len(first)]))


def test_each_pair_has_its_verdict_however_many_are_asked_at_once(service: StandIn) -> None:
    service.reply = longer
    pairs = [pair("aaaa", "a"), pair("a", "bbb"), pair("aa", "bb"), pair("x", "a"), pair("c", "c"), pair("b", "dd")]
    for concurrency in (1, 8):
        service.asked.clear()
        verdicts, remarks = judge(service, pairs, concurrency=concurrency)
        assert verdicts == ["first", "second", "tie", None, "tie", "second"]
        assert len(service.asked) == 12  # two orders of five pairs, and both of the fourth once more
        assert len(remarks) == 1
        assert "rows.jsonl:1: no verdict in 'I cannot say.'" in remarks[0]


def test_what_is_sent(service: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", f"{KEY}\n")
    judge(service, [pair("one", "two")], api_key_env="JUDGE_KEY")
    (path, headers, first), (_, _, second) = service.asked
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == f"Bearer {KEY}"
    assert {name: first[name] for name in first if name != "messages"} == {
        "model": "big",
        "temperature": 0.0,
        "max_tokens": 512,
    }
    assert [message["role"] for message in first["messages"]] == ["user"]
    assert "'Verdict: tie'" in first["messages"][0]["content"]
    assert [answers(each) for each in (first, second)] == [("one", "two"), ("two", "one")]
    service.asked.clear()
    judge(service, [pair("one", "two")], url=f"{service.url}/chat/completions", temperature=None, max_tokens=None)
    path, headers, asked = service.asked[0]
    assert path == "/v1/chat/completions"
    assert "Authorization" not in headers
    assert asked.keys() == {"model", "messages"}


def test_a_judge_that_prefers_a_place_gives_ties(service: StandIn) -> None:
    service.replies(says("Verdict: A"))
    verdicts, remarks = judge(service, SIX)
    assert verdicts == ["inconsistent"] * 6
    assert win_rate(verdicts).rate == 0.5
    assert remarks == []


@pytest.mark.parametrize(
    ("reply", "choice"),
    [
        ("Verdict: A", "first"),
        ("VERDICT: b\n\n", "second"),
        ("B is wrong.\n**Verdict:** `Tie`.", "tie"),
        ("Verdict: B\nVerdict: [[A]]", "first"),
        ("Verdict: A\nbecause it is right", None),
        ("Verdict: A or B", None),
        ("The verdict: A", None),
        ("Verdict: C", None),
        ("A", None),
        ("", None),
        (" \n\t", None),
    ],
)
def test_only_the_last_line_is_a_verdict(reply: str, choice: Choice) -> None:
    assert choice_of(reply) == choice


def test_a_reply_without_a_verdict_is_sent_back_once(service: StandIn) -> None:
    service.replies(says("Both are fine."), says("verdict: a"), says("Verdict: B"))
    assert judge(service, [pair("one", "two")]) == (["first"], [])
    turns = service.asked[1][2]["messages"]
    assert turns[0] == service.asked[0][2]["messages"][0]
    assert turns[1] == {"role": "assistant", "content": "Both are fine."}
    assert "Verdict: tie" in turns[2]["content"]
    assert len(service.asked) == 3


@pytest.mark.parametrize(
    "reply",
    [
        says("I like A."),
        says(None),
        says(["Verdict: A"]),
        Reply(b"<html>Verdict: A"),
        Reply(b"\xff\xfe"),
        Reply(b"[" * 100_000),
        Reply(b"null"),
        Reply(b'{"choices": []}'),
        Reply(b'{"error": "overloaded"}'),
    ],
    ids=lambda reply: repr(reply.body[:30]),
)
def test_what_is_no_verdict_is_missing_and_never_guessed(service: StandIn, reply: Reply) -> None:
    service.replies(reply)
    verdicts, remarks = judge(service, [pair("one", "two")])
    assert verdicts == [None]
    assert len(service.asked) == 4
    assert len(remarks) == 1
    assert remarks[0].startswith(
        "judge 'big' has no usable answer for some pairs, which count as missing; rows.jsonl:1: no verdict in '"
    )
    assert " in ''" not in remarks[0]  # what it was instead is all that helps


def test_a_busy_service_is_asked_again_when_it_wants_to(service: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(post, "LONGEST_WAIT_S", 0.2)
    busy = Reply(b"slow down", 429, {"Retry-After": "30"})
    service.replies(busy, Reply(b"", 503), says("Verdict: B"), says("Verdict: A"))
    started = time.monotonic()
    assert judge(service, [pair("one", "two")], retries=2) == (["second"], [])
    assert time.monotonic() - started >= 0.2
    assert len(service.asked) == 4


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Reply(b"broken", 500), "answered 500 Internal Server Error: broken (after 2 tries)"),
        (Reply(b"", drips=True), "did not answer: no answer within 0 s (after 2 tries)"),
        (Reply(b"Verdict", unsent=1), "broke off: 7 bytes came, 1 did not (after 2 tries)"),
        (Reply(b"too long", 400), "answered 400 Bad Request: too long"),
    ],
    ids=["broken", "dripping", "cut", "refusing"],
)
def test_a_service_that_answers_nobody_is_asked_no_more(service: StandIn, reply: Reply, reason: str) -> None:
    service.replies(reply)
    verdicts, remarks = judge(service, SIX, timeout_s=0.15)
    assert verdicts == [None] * 6
    assert win_rate(verdicts).rate is None
    assert len(service.asked) == (2 if reply.status == 400 else 4)  # two questions, and the second try of each
    assert remarks == [
        f"judge 'big' is asked no more, and all further pairs count as missing; rows.jsonl:1: it {reason}"
    ]


def test_nobody_there() -> None:
    verdicts, remarks = judge(StandIn(says, "http://127.0.0.1:9/v1"), SIX[:1], retries=0)
    assert verdicts == [None]
    assert "did not answer: [Errno" in remarks[0]


def test_what_was_said_once_is_not_said_of_later_rows(service: StandIn) -> None:
    service.replies(says("Who knows?"))
    remarks: list[str] = []
    opened = Endpoint(url=service.url, model="big").open(Surroundings(remark=remarks.append))
    assert opened(SIX[:1]) == opened(SIX[1:2]) == [None]
    assert len(remarks) == 1


def test_a_few_failures_end_nothing(service: StandIn) -> None:
    service.replies(Reply(b"", 500), *[says("Verdict: tie")] * 3, Reply(b"flagged", 403), says("Verdict: tie"))
    verdicts, remarks = judge(service, SIX, retries=0)
    assert verdicts == [None, "tie", None, "tie", "tie", "tie"]
    assert len(remarks) == 1
    assert "rows.jsonl:1: it answered 500" in remarks[0]


@pytest.mark.parametrize("status", [401, 404])
def test_a_refused_key_or_model_is_asked_once_and_the_key_is_never_said(
    service: StandIn,
    status: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("JUDGE_KEY", KEY)
    service.replies(Reply(f"\x1b[2J{'_' * 186}{KEY} is no key".encode(), status))
    with caplog.at_level(logging.DEBUG):
        verdicts, (remark,) = judge(service, SIX, api_key_env="JUDGE_KEY")
    assert verdicts == [None] * 6
    assert len(service.asked) == 1
    assert f"it answered {status}" in remark
    told = "".join((remark, caplog.text, *capfd.readouterr()))
    assert KEY[:8] not in told
    assert "\x1b" not in told
    assert "[key]" in told
    opened = post.Service("http://localhost/", KEY, 1.0, 0)
    assert KEY not in repr(opened)


def test_an_end_from_outside_leaves_nothing_asked(service: StandIn) -> None:
    def stop(_: int) -> None:
        raise KeyboardInterrupt

    opened = Endpoint(url=service.url, model="big", concurrency=1).open(Surroundings())
    with pytest.raises(KeyboardInterrupt):
        opened(SIX, stop)
    assert len(service.asked) <= 3
    service.asked.clear()
    seen: list[int] = []
    assert opened(SIX, seen.append) == ["inconsistent"] * 6
    assert seen[-1] == 6
    assert len(service.asked) in (12, 13)  # one question may have been on its way when the first round ended


@pytest.mark.parametrize("busy", [Reply(b"", 429, {"Retry-After": "30"}), Reply(b"", drips=True)], ids=["busy", "slow"])
def test_an_end_from_outside_waits_for_nobody(service: StandIn, busy: Reply, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(post, "LONGEST_WAIT_S", 5.0)
    service.reply = lambda question: says("Verdict: A") if answers(question)[0] == "a" else busy

    def stop(_: int) -> None:
        raise KeyboardInterrupt

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        Endpoint(url=service.url, model="big", prompt=SHORT, concurrency=2).open(Surroundings())(SIX[:1], stop)
    assert time.monotonic() - started < 4


@pytest.mark.parametrize(
    ("value", "message"), [(None, "not set"), ("", "not set"), ("se\ncret", "ASCII"), ("sécret", "ASCII")]
)
def test_a_key_that_cannot_be_sent_is_a_fault(value: str | None, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("JUDGE_KEY", value)
    judge = Endpoint(url="http://localhost/v1", model="big", api_key_env="JUDGE_KEY")
    ((place, problem),) = judge.faults()
    assert place == ("api_key_env",)
    assert message in problem
    with pytest.raises(LaunchError, match="api_key_env: the ") as error:
        judge.open(Surroundings())
    assert "cret" not in str(error.value)


@pytest.mark.parametrize(
    "url", ["ftp://a/b", "localhost:1", "http://", "http://me:word@h/", "http://h:99999/", "http://ä/"]
)
def test_other_addresses_are_refused(url: str) -> None:
    with pytest.raises(ValidationError):
        Endpoint(url=url, model="big")


def test_a_key_in_place_of_its_name_is_refused_without_saying_it() -> None:
    with pytest.raises(ValidationError) as error:
        Endpoint(url="http://localhost/v1", model="big", api_key_env=KEY)
    (detail,) = error.value.errors()
    assert "not the key itself" in detail["msg"]
    assert KEY not in detail["msg"]
