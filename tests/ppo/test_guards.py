"""What a person is warned of."""

from pathlib import Path

import pytest

from ftune.core.errors import ModelError
from ftune.core.say import Say
from ftune.ppo.guards import check_drift, check_first_ratio
from ftune.ppo.plan import Plan
from ftune.ppo.state import State
from ftune.ppo.telling import Teller
from ftune.report.events import EventLog

BEFORE = {"entropy": 3.0, "distinct_2": 0.8, "length": 50.0, "score": 0.0}


@pytest.mark.parametrize(
    ("after", "words"),
    [
        ({}, ""),
        ({"score": 9.0, "length": 90.0, "entropy": 2.0, "distinct_2": 0.5}, ""),
        ({"entropy": 9.0, "distinct_2": 0.99}, ""),
        ({"entropy": 1.4}, "entropy went from 3 to 1.4"),
        ({"distinct_2": 0.3}, "different token pairs went from 0.8 to 0.3"),
        ({"length": 101.0}, "the length went from 50 to 101"),
        ({"length": 20.0}, "the length went from 50 to 20"),
    ],
)
def test_held_out_completions_that_drift_are_told_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], after: dict[str, float], words: str
) -> None:
    plan = Plan.__new__(Plan)  # nothing of it is asked for
    with EventLog(tmp_path / "events.jsonl") as events:
        tell, state = Teller(tmp_path, events, Say(), plan, writes=True), State(iteration=0)
        check_drift(state, BEFORE, tell)
        assert capsys.readouterr().err == ""
        state.iteration = 10
        check_drift(state, BEFORE | after, tell)
        said = capsys.readouterr().err
        assert (words in said) if words else said == ""
        check_drift(state, BEFORE | after, tell)
        assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("gap", "half"), [(2e-3, False), (0.3, True), (float("nan"), False)])
def test_a_policy_that_is_not_the_one_that_made_the_rollouts_ends_the_run(gap: float, half: bool) -> None:
    with pytest.raises(ModelError, match="iteration 4: before any update the policy's ratio is off"):
        check_first_ratio(gap, 4, half_precision=half)


def test_rounding_is_no_other_policy() -> None:
    check_first_ratio(1e-6, 1, half_precision=False)
    check_first_ratio(0.05, 1, half_precision=True)
