"""Questions to a service: when they are asked again. What becomes of answers, those who ask try."""

import pytest

from ftune.core import post


def test_waits_grow_and_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    asked = post.Service("http://127.0.0.1:9/", "", 1.0, retries=6)
    monkeypatch.setattr(type(asked.closed), "wait", lambda _, seconds: waits.append(seconds))
    monkeypatch.setattr(post.Service, "_once", _no_answer)
    with pytest.raises(post.NoAnswerError, match=r"nobody \(after 7 tries\)"):
        asked.post({})
    for attempt, wait in enumerate(waits):
        assert 0.25 * 2**attempt <= wait <= 0.75 * 2**attempt
    assert len({wait / 2**attempt for attempt, wait in enumerate(waits)}) == 6


def _no_answer(*_: object) -> bytes:
    raise post.NoAnswerError("nobody")
