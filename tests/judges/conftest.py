"""Pairs of answers, and a chat completions service on this machine that replies as a test wants."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from ftune.core import post
from ftune.data.example import Conversation, Message
from ftune.judges.base import Pair
from tests.stand_in_server import Reply, StandIn, serving

SHORT = "{conversation}\n{reference}A {answer_a}\nB {answer_b}"
"""A question that a model with 256 positions can read."""


def pair(first: str, second: str, **other: Any) -> Pair:
    """Two answers to one user."""
    return Pair(Conversation((Message("user", "the cat?"),)), first, second, **({"origin": "rows.jsonl:1"} | other))


def says(text: object, status: int = 200) -> Reply:
    """A chat completion with this text."""
    return Reply(json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}).encode(), status)


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """The service, at work; questions are asked again at once."""
    monkeypatch.setattr(post, "FIRST_WAIT_S", 0.0)
    with serving(lambda _: says("Verdict: A"), "/v1") as made:
        yield made
