"""The whole chain of `scripts/rlhf.sh` in a small size: the shipped recipes, one after the other, on the tiny model."""

import json
import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ftune.recipes.catalogue import recipes_folder
from ftune.report.events import read_events
from tests.conftest import Done

RECIPES = recipes_folder() / "rlhf"
SCRIPTS = Path(__file__).parents[2] / "scripts"
SMALLER = {
    "sft": ["peft.layers=[1]", "optim.learning_rate=0.01", "schedule={max_steps: 6}"],
    "rm": ["peft.layers=[1]", "optim.learning_rate=0.01", "schedule={max_steps: 6}"],
    "ppo": [
        "rollout={type: generate, batch_size: 16, max_new_tokens: 12}",
        "score.missing_eos=none",  # the tiny model does not learn to end in six steps
        "kl.coefficient=0.002",
        "optim.learning_rate=0.01",
        "schedule.iterations=6",
        "eval={every: 3, completions_per_prompt: 2}",
    ],
}


def test_the_chain_of_rlhf(
    ftune: Callable[..., Done],
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for command, overrides in SMALLER.items():
        words = [command, RECIPES / f"{command}.yaml", f"model.path={tiny_model}", *overrides, "--resume"]
        done = ftune(*words)
        assert done.code == 0, done.err
        again = ftune(*words)
        assert again.code == 0, again.err
        assert "nothing to do" in again.out

    events = read_events(tmp_path / "runs/rlhf-ppo/events.jsonl")
    evals = [event for event in events if event["kind"] == "eval"]
    assert [event["step"] for event in evals] == [0, 3, 6]
    assert evals[0]["kl"] == 0.0  # the policy starts as its reference, the adapter of step 1
    assert all(0 < event["kl"] < 15 for event in evals[1:])
    before, kept = evals[0], [event for event in evals if event["best"]][-1]

    monkeypatch.setattr(sys, "argv", ["before_after.py", "runs/rlhf-ppo", "2"])
    runpy.run_path(str(SCRIPTS / "before_after.py"), run_name="__main__")
    shown = capfd.readouterr().out
    assert re.search(rf"score that is trained on +{before['score']:.2f} +{kept['score']:.2f}\n", shown)
    assert all(row in shown for row in ("reward: model", "gold, only logged: lexicon", "KL to the start"))
    assert shown.count("  before: ") == shown.count("  after: ") == 2
    prompts = [json.loads(line)["prompt"] for line in (RECIPES / "../data/opinions/prompts_test.jsonl").open()]
    assert all(prompt in shown for prompt in prompts[:2])


def test_the_script_runs_the_recipes_in_this_order() -> None:
    script = (SCRIPTS / "rlhf.sh").read_text()
    assert re.findall(r'^"\$ftune" (\w+) recipes/rlhf/(\w+)\.yaml', script, re.MULTILINE) == [
        (command, command) for command in SMALLER
    ]
