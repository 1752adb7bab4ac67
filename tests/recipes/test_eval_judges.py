"""Win rates through the command: by a reward model, by a service that answers, and by one that does not."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Done
from tests.judges.conftest import says, service
from tests.stand_in_server import Reply, StandIn

__all__ = ["service"]

Run = Callable[..., Done]

QUICK = ("forgetting=false", "likelihood=false", "metrics=[empty]", "max_new_tokens=6")


@pytest.fixture
def scorer(tiny_model: Path, tmp_path: Path) -> Path:
    """A model with one score."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForSequenceClassification

    torch.manual_seed(0)
    model = LlamaForSequenceClassification(LlamaConfig.from_pretrained(tiny_model, num_labels=1))
    model.save_pretrained(tmp_path / "scorer")
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path / "scorer")
    return tmp_path / "scorer"


def win_rate(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "eval/eval.json").read_text())["metrics"]["win_rate"]
    return found


def points(folder: Path) -> list[float | None]:
    rows = [json.loads(line) for line in (folder / "eval/samples.jsonl").read_text().splitlines()]
    return [row["scores"]["after"]["win_rate"] for row in rows]


def endpoint(service: StandIn, **keys: object) -> str:
    given = {"type": "endpoint", "url": service.url, "model": "big", "retries": 1, "concurrency": 1, **keys}
    return f"judge={json.dumps(given)}"


def test_a_reward_model_is_the_judge(trained: Path, scorer: Path, ftune: Run) -> None:
    """It says of each pair what it says of the two completions as a reward."""
    done = ftune(
        "eval", trained, *QUICK, f"judge={{type: reward, path: '{scorer}'}}",
        f"rewards=[{{type: model, path: '{scorer}'}}]",
    )  # fmt: skip
    assert done.code == 0, done.err
    rows = [json.loads(line)["scores"] for line in (trained / "eval/samples.jsonl").read_text().splitlines()]
    rewards = [(row["before"]["reward_model"], row["after"]["reward_model"]) for row in rows]
    wanted = [0.5 if before == after else float(after > before) for before, after in rewards]
    assert points(trained) == wanted
    assert len(set(wanted)) > 1
    found = win_rate(trained)
    assert found["after"] == pytest.approx(sum(wanted) / len(wanted))
    assert found["before"] == pytest.approx(1 - found["after"])
    assert found["missing"] == 0
    assert f"judge: {wanted.count(1.0)} wins" in done.err


def test_pairs_that_a_service_leaves_unanswered_are_missing(trained: Path, service: StandIn, ftune: Run) -> None:
    """The first question fails twice, so its pair has no verdict; a question that is answered at last has one."""
    down = Reply(b"", 500)
    service.replies(down, down, says("Verdict: A"), down, says("Verdict: B"), says("Verdict: A"), says("Verdict: tie"))
    done = ftune("eval", trained, *QUICK, endpoint(service))
    assert done.code == 0, done.err
    assert "count as missing" in done.err
    assert "1 without a verdict" in done.err
    assert win_rate(trained)["missing"] == 1
    assert points(trained).count(None) == 1
    judged = [value for value in points(trained) if value is not None]
    assert win_rate(trained)["after"] == pytest.approx(sum(judged) / len(judged))
    assert "1 not scored" in done.out


def test_a_service_that_answers_nobody_gives_no_number(trained: Path, service: StandIn, ftune: Run) -> None:
    """No result is written, though a pair of equal texts needs no judge; completions wait for the service."""
    service.replies(Reply(b"overloaded", 503))
    done = ftune("eval", trained, *QUICK, endpoint(service))
    assert done.code == 2, done.err
    assert "is asked no more, and all further pairs count as missing" in done.err
    assert "judge: gave no usable verdict on any of 3 pairs" in done.err  # one pair is the same text twice
    assert not (trained / "eval/eval.json").exists()
    service.replies(says("Verdict: tie"))
    again = ftune("eval", trained, *QUICK, endpoint(service))
    assert again.code == 0, again.err
    assert "after: 4 of 4 completions are there already" in again.err
    assert (win_rate(trained)["after"], win_rate(trained)["low"]) == (0.5, None)
