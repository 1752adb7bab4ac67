"""`ftune eval`: both models on the same rows, whatever the batch, the interruption and the metrics."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ftune.evals.metrics.base import Metric
from ftune.judges.base import Judge
from ftune.recipes.eval import EvalRecipe
from ftune.rewards.base import RewardSource
from tests.conftest import Done, chat_rows, write_rows
from tests.pair import once
from tests.recipes.test_keys import keys_of

Run = Callable[..., Done]

KEYS = {
    "model", "against", "rows", "limit", "likelihood", "forgetting", "max_new_tokens", "micro_batch_size", "samples",
    "device", "output", "seed", "metrics", "rewards", "judge", "extends", "type", "processes", "harness",
    "harness_limit",
}  # fmt: skip


@pytest.fixture
def trained(recipe: Callable[..., Path], ftune: Run, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of a run of two steps that held out a quarter of its rows."""

    def train(folder: Path) -> None:
        rows = write_rows(folder / "more.jsonl", chat_rows(16))
        data = {"train": str(rows), "validation": 0.25}
        done = ftune("sft", recipe(data=data, schedule={"max_steps": 2}, output_dir=str(folder / "run")))
        assert done.code == 0, done.err

    recipe()
    made = once(tmp_path_factory, "run-to-evaluate", train) / "run"
    return shutil.copytree(made, tmp_path / "runs/tiny")


def facts(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "eval.json").read_text())
    return found


def samples(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]


QUICK = ("forgetting=false", "max_new_tokens=6")


def test_no_key_is_without_a_case() -> None:
    known = set(keys_of(EvalRecipe, elsewhere=Metric | RewardSource | Judge))
    assert {key.partition(".")[0] for key in known} == KEYS


def test_rows_that_the_run_held_out_are_evaluated(trained: Path, ftune: Run) -> None:
    done = ftune("eval", trained, *QUICK, "samples=1")
    assert done.code == 0, done.err
    assert "on 4 held-out rows" in done.out
    assert f"report: {Path('runs/tiny/report.html')}" in done.out
    data = json.loads((trained / "data.json").read_text())
    assert data["validation"]["counts"]["kept"] == 4 or len(samples(trained / "eval")) == 4
    metrics = facts(trained / "eval")["metrics"]
    assert metrics["loss"]["before"] != metrics["loss"]["after"]
    assert metrics["loss"]["low"] <= metrics["loss"]["difference"] <= metrics["loss"]["high"]
    events = [json.loads(line) for line in (trained / "events.jsonl").read_text().splitlines()]
    last = [event["loss"] for event in events if event["kind"] == "eval"][-1]
    assert metrics["loss"]["after"] == pytest.approx(last, rel=1e-4)  # the very rows and mask of the training
    assert "general_text_perplexity" not in metrics


def test_the_batch_does_not_change_the_result(trained: Path, ftune: Run, tmp_path: Path) -> None:
    found = []
    for size in (1, 3, 16):
        done = ftune("eval", trained, *QUICK, f"micro_batch_size={size}", f"output={tmp_path / str(size)}")
        assert done.code == 0, done.err
        found.append([row["completions"] for row in samples(tmp_path / str(size))])
    assert found[0] == found[1] == found[2]


def test_an_interrupted_evaluation_is_finished_by_two_processes(
    trained: Path, ftune: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both make their share of what is missing, and together they make what one makes."""
    words = ("eval", trained, *QUICK, "micro_batch_size=1")
    assert ftune(*words, f"output={tmp_path / 'whole'}").code == 0
    from ftune.recipes.runs import eval_work

    complete, made = eval_work.complete, []

    def counted(*args: Any, **options: Any) -> Iterator[tuple[int, Any]]:
        for index, completion in complete(*args, **options):
            made.append(index)
            yield index, completion
            if len(made) == 1:
                raise KeyboardInterrupt

    monkeypatch.setattr(eval_work, "complete", counted)
    words = (*words, f"output={tmp_path / 'broken'}")
    assert ftune(*words).code == 130
    torn = next((tmp_path / "broken/partial").glob("before-*.0.jsonl"))
    torn.write_text(torn.read_text() + '\n{"row": 3, "tex')
    done = ftune(*words, "processes=2")
    assert done.code == 0, done.err
    assert "before: 1 of 4 completions are there already" in done.err
    assert len(made) == 1 + 2 + 2  # of the 3 and 4 that were missing, batch by batch in turn
    assert samples(tmp_path / "broken") == samples(tmp_path / "whole")
    assert not (tmp_path / "broken/partial").exists()


def test_other_models_and_none(trained: Path, ftune: Run, tiny_model: Path, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "test.jsonl", chat_rows(5, start=40))
    words = (f"rows={rows}", "limit=3", *QUICK)
    assert ftune("eval", trained, *words, f"output={tmp_path / 'base'}").code == 0
    named = ftune("eval", trained, *words, f"against={tiny_model}", f"output={tmp_path / 'named'}")
    assert named.code == 0, named.err
    assert facts(tmp_path / "named")["metrics"] == facts(tmp_path / "base")["metrics"]
    assert facts(tmp_path / "named")["models"] == {"before": str(tiny_model), "after": str(trained)}
    alone = ftune("eval", tiny_model, *words, f"output={tmp_path / 'alone'}")
    assert alone.code == 0, alone.err
    metrics = facts(tmp_path / "alone")["metrics"]
    assert "before" not in metrics["loss"]
    assert metrics["loss"]["after"] == pytest.approx(facts(tmp_path / "base")["metrics"]["loss"]["before"])
    assert len(samples(tmp_path / "alone")) == 3


def test_metrics_rewards_and_a_judge(trained: Path, ftune: Run, tmp_path: Path) -> None:
    code = "def score(completions, **columns):\n    return [float('\\ufffd' in str(each)) for each in completions]\n"
    (tmp_path / "broken.py").write_text(code)
    done = ftune(
        "eval", trained, *QUICK, "likelihood=false",
        "metrics=[exact_match, {type: regex, pattern: 'a+', compare: count, name: many_a}]",
        f"rewards=[{{type: function, function: '{tmp_path}/broken.py:score'}}]",
    )  # fmt: skip
    assert done.code == 0, done.err
    metrics = facts(trained / "eval")["metrics"]
    assert set(metrics) == {"exact_match", "many_a", "reward_function"}
    odd = ["\ufffd" in row["completions"]["after"] for row in samples(trained / "eval")]
    assert metrics["reward_function"]["after"] == pytest.approx(sum(odd) / len(odd))


def test_likelihoods_alone(trained: Path, ftune: Run) -> None:
    done = ftune("eval", trained, "max_new_tokens=0")
    assert done.code == 0, done.err
    metrics = facts(trained / "eval")["metrics"]
    assert set(metrics) == {"loss", "perplexity", "token_accuracy", "general_text_perplexity"}
    assert metrics["perplexity"]["after"] == pytest.approx(2.718281828 ** metrics["loss"]["after"], rel=1e-5)


REFUSED = {
    "rows without answers": (
        ["rows={{path: {rows}, format: prompt}}", "metrics=[exact_match]"],
        "exact_match: the rows have no answers",
    ),
    "no such metric": (["metrics=[exact_macth]"], "did you mean 'exact_match'"),
    "one name twice": (["metrics=[exact_match, exact_match]"], "give one of them a 'name'"),
    "a judge without a pair": (["against=none", "judge={type: reward, path: x}"], "compares two models"),
    "rewards without completions": (["max_new_tokens=0", "rewards=[repetition]"], "makes none"),
    "no such model to compare with": (["against=./nowhere"], "no such file or folder"),
    "a broken expression": (["metrics=[{type: regex, pattern: '('}]"], "pattern"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_evaluated_is_refused(what: str, trained: Path, ftune: Run, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "prompts.jsonl", [{"prompt": f"the cat {n}"} for n in range(3)])
    words, said = REFUSED[what]
    done = ftune("eval", trained, *QUICK, *(word.format(rows=rows) if "{rows}" in word else word for word in words))
    assert done.code == 2, done.err
    assert said in done.err
    assert "Traceback" not in done.err
    assert not (trained / "eval/eval.json").exists()
