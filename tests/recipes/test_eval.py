"""`ftune eval`: both models on the same rows, whatever the batch, the interruption and the metrics."""

import json
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from ftune.evals.metrics.base import Metric
from ftune.judges.base import Judge
from ftune.recipes.eval import EvalRecipe
from ftune.recipes.runs.eval_output import _line
from ftune.report.run_record import read_run
from ftune.rewards.base import RewardSource
from tests.conftest import Done, chat_rows, write_rows
from tests.recipes.test_keys import keys_of

Run = Callable[..., Done]
Write = Callable[..., Path]

KEYS = {
    "model", "against", "rows", "limit", "likelihood", "forgetting", "max_new_tokens", "micro_batch_size", "samples",
    "device", "output", "seed", "metrics", "rewards", "judge", "extends", "type", "processes", "harness",
    "harness_limit", "chat_template",
}  # fmt: skip


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
    assert 'class="histogram"' in (trained / "report.html").read_text()
    data = json.loads((trained / "data.json").read_text())
    assert data["validation"]["counts"]["kept"] == 4 or len(samples(trained / "eval")) == 4
    metrics = facts(trained / "eval")["metrics"]
    assert metrics["loss"]["before"] != metrics["loss"]["after"]
    assert metrics["loss"]["low"] <= metrics["loss"]["difference"] <= metrics["loss"]["high"]
    events = [json.loads(line) for line in (trained / "events.jsonl").read_text().splitlines()]
    last = [event["loss"] for event in events if event["kind"] == "eval"][-1]
    assert metrics["loss"]["after"] == pytest.approx(last, rel=1e-4)  # the very rows and mask of the training
    assert "general_text_perplexity" not in metrics


def test_a_run_is_evaluated_as_it_was_trained(recipe: Write, ftune: Run, tmp_path: Path) -> None:
    """Several layouts, damage that was dropped, preferences, classes of which some are not held out, tool calls."""
    write_rows(tmp_path / "chats.jsonl", chat_rows(10))
    (tmp_path / "chats.jsonl").open("a").write('{"messages": [{"role": "us\n{"messages": []}\n')
    classes = [{"text": f"the cat {n}", "label": "rare" if n == 3 else f"class{n % 2}"} for n in range(12)]
    judged = [{"prompt": f"cat {n}", "response": "sat", "label": n % 3 > 0} for n in range(12)]
    call = {"role": "assistant", "tool_calls": [{"name": "purr", "arguments": {"long": True}}]}
    calls = [{"messages": [{"role": "user", "content": f"purr {n}"}, call]} for n in range(8)]
    named = {"type": "classification", "labels": {"class0": "zero", "class1": "one", "rare": "none"}}
    sources = ["chats.jsonl", "judged.jsonl", "calls.jsonl", "classes.jsonl", {"path": "more.jsonl", "format": named}]
    for name, rows in (("judged", judged), ("calls", calls), ("classes", classes), ("more", classes)):
        write_rows(tmp_path / f"{name}.jsonl", rows)
    data = {"train": sources, "validation": 0.3, "on_bad_row": "drop", "on_preference": "chosen", "max_length": 250}
    done = ftune("sft", recipe(data=data, schedule={"max_steps": 2}, checkpoint={"every": "never"}))
    assert done.code == 0, done.err
    run = tmp_path / "runs/tiny"
    done = ftune("eval", run, "forgetting=false", "max_new_tokens=2")
    assert done.code == 0, done.err
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    last = [event["loss"] for event in events if event["kind"] == "eval"][-1]
    assert facts(run / "eval")["metrics"]["loss"]["after"] == pytest.approx(last, rel=1e-4)
    rows = samples(run / "eval")
    assert {Path(row["row"]).name.partition(".")[0] for row in rows} == {"chats", "judged", "calls", "classes", "more"}
    assert {row["reference"] for row in rows if "calls" in row["row"]} == {
        '<tool_call>\n{"name": "purr", "arguments": {"long": true}}\n</tool_call>'
    }
    assert all("- rare\n" in row["prompt"] for row in rows if "classes" in row["row"])


def test_texts_have_the_loss_that_the_training_measured(recipe: Write, ftune: Run, tmp_path: Path) -> None:
    """Also where they are cut into sequences of which some are held out; beside questions they do not count."""
    texts: list[dict[str, object]] = [{"text": f"{n} " + f"the cat sat on {n} mats " * 20} for n in range(6)]
    write_rows(tmp_path / "texts.jsonl", texts)
    data = {"train": "texts.jsonl", "validation": 5, "max_length": 64}
    done = ftune("sft", recipe(data=data, schedule={"max_steps": 2}, checkpoint={"every": "never"}))
    assert done.code == 0, done.err
    run = tmp_path / "runs/tiny"
    done = ftune("eval", run, "forgetting=false")
    assert done.code == 0, done.err
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    last = [event["loss"] for event in events if event["kind"] == "eval"][-1]
    found = facts(run / "eval")
    assert found["metrics"]["loss"]["after"] == pytest.approx(last, rel=1e-4)
    assert found["rows"] == 5
    assert "texts without a question: their likelihood is measured, and nothing is completed" in done.err
    assert "prompt" not in done.out
    assert ftune("eval", run, "forgetting=false", "limit=1").code == 0
    assert 0 < facts(run / "eval")["rows"] < 5
    done = ftune("eval", run, "forgetting=false", "rows=texts.jsonl")
    assert done.code == 0, done.err
    assert facts(run / "eval")["rows"] > len(texts)
    write_rows(tmp_path / "chats.jsonl", chat_rows(6))
    data = {"train": ["texts.jsonl", "chats.jsonl"], "validation": 0.5, "max_length": 64}
    mixed = recipe(data=data, output_dir="runs/mixed", schedule={"max_steps": 1}, checkpoint={"every": "never"})
    assert ftune("sft", mixed).code == 0
    done = ftune("eval", "runs/mixed", *QUICK)
    assert done.code == 0, done.err
    assert "left out: a text without a question, where others have one" in done.err


def test_a_faulty_row_is_told_with_its_place_and_rows_without_a_good_answer_are_counted(
    trained: Path, ftune: Run, tmp_path: Path
) -> None:
    rows: list[dict[str, object]] = [{"prompt": f"cat {n}", "chosen": "sat", "rejected": "ran"} for n in range(3)]
    path = write_rows(tmp_path / "pairs.jsonl", rows)
    done = ftune("eval", trained, *QUICK, f"rows={path}", "likelihood=false")
    assert "3 rows with two answers: the chosen one is what is wanted" in done.err
    assert {row["reference"] for row in samples(trained / "eval")} == {"sat"}
    write_rows(path, [*rows, {"prompt": "cat", "chosen": None, "rejected": "ran"}])
    assert f"error: {path}:4: 'chosen' is null; it must be text" in ftune("eval", trained, f"rows={path}").err
    ties = [{"prompt": "cat", "response_a": "a", "response_b": "b", "winner": who} for who in ("tie", "model_b")]
    write_rows(path, ties)
    done = ftune("eval", trained, *QUICK, f"rows={path}", "likelihood=false")
    assert "1 row left out: a tie: no answer is better" in done.err
    assert (facts(trained / "eval")["rows"], facts(trained / "eval")["left_out"]) == (1, 1)


def test_texts_may_hold_line_separators_and_signs_that_drive_a_terminal(
    trained: Path, ftune: Run, tmp_path: Path
) -> None:
    rows = [{"prompt": f"the \x1b[2J\u2028cat\x85 {n}", "completion": "nine"} for n in range(3)]
    path = write_rows(tmp_path / "odd.jsonl", rows)
    done = ftune("eval", trained, *QUICK, f"rows={path}", "likelihood=false", "samples=1")
    assert done.code == 0, done.err
    assert "prompt  the \\x1b[2J cat 0" in done.out
    assert len(read_run(trained).rows("eval/samples.jsonl")) == 3
    assert "cat\x85 2" in (trained / "report.html").read_text(encoding="utf-8")


def test_a_broken_model_does_not_break_the_table(trained: Path, ftune: Run, tiny_model: Path, tmp_path: Path) -> None:
    """Its perplexity is a number of hundreds of digits."""
    from safetensors.torch import load_file, save_file

    broken = shutil.copytree(tiny_model, tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    weights["model.norm.weight"] *= 1e4
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    done = ftune("eval", trained, "max_new_tokens=0", f"against={broken}")
    assert done.code == 0, done.err
    assert facts(trained / "eval")["metrics"]["perplexity"]["before"] > 1e100
    table = [line for line in done.out.splitlines() if line.startswith(("perplexity", "general text"))]
    assert all(len(line) < 100 and "e+" in line for line in table), table


def test_the_batch_does_not_change_the_result(trained: Path, ftune: Run, tmp_path: Path) -> None:
    found = []
    for size in (1, 3, 16):
        done = ftune("eval", trained, *QUICK, f"micro_batch_size={size}", f"output={tmp_path / str(size)}")
        assert done.code == 0, done.err
        found.append([row["completions"] for row in samples(tmp_path / str(size))])
    assert found[0] == found[1] == found[2]


@pytest.mark.slow
def test_an_interrupted_evaluation_is_finished_by_two_processes(
    trained: Path, ftune: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """Both make their share of what is missing, and together they make what one makes.

    One thread each: several add up in another order.
    """
    import torch

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    request.addfinalizer(partial(torch.set_num_threads, torch.get_num_threads()))
    torch.set_num_threads(1)
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
    stopped = ftune(*words)
    assert stopped.code == 130
    assert "completions are kept" in stopped.err
    torn = next((tmp_path / "broken/partial").glob("before-*.0.jsonl"))
    torn.write_text(torn.read_text() + '\n{"row": 3, "tex')
    done = ftune(*words, "processes=2")
    assert done.code == 0, done.err
    assert "before: 1 of 4 completions are there already" in done.err
    assert len(made) == 1 + 2 + 2  # of the 3 and 4 that were missing, batch by batch in turn
    assert samples(tmp_path / "broken") == samples(tmp_path / "whole")
    assert not (tmp_path / "broken/partial").exists()


def test_a_model_without_a_template_is_given_one(ftune: Run, tiny_model: Path, tmp_path: Path) -> None:
    bare = shutil.copytree(tiny_model, tmp_path / "bare", ignore=shutil.ignore_patterns("chat_template.jinja"))
    rows = write_rows(tmp_path / "rows.jsonl", chat_rows(3))
    words = ("eval", bare, *QUICK, f"rows={rows}", f"output={tmp_path / 'out'}")
    without = ftune(*words)
    assert without.code == 2
    assert "chat rows need a chat template; name one with 'chat_template', for example chatml" in without.err
    assert ftune(*words, "chat_template=chatml").code == 0
    losses = [facts(tmp_path / "out")["metrics"]["loss"]["after"]]
    own = tmp_path / "own.jinja"
    own.write_text("{% for message in messages %}{{ message.role }}: {{ message.content }}{{ eos_token }}{% endfor %}")
    assert ftune(*words, f"chat_template={own}").code == 0
    losses.append(facts(tmp_path / "out")["metrics"]["loss"]["after"])
    assert losses[0] != losses[1]
    own.unlink()
    assert f"chat_template: no such file '{own}'" in ftune(*words, f"chat_template={own}").err


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
    "metrics without completions": (["max_new_tokens=0", "metrics=[exact_match]"], "makes none"),
    "answers that are no numbers": (["metrics=[numeric]"], "numeric: no reference has a number in it"),
    "a file without rows": (["rows=empty.jsonl"], "empty.jsonl: there are no rows in it"),
    "rows that are cut off": (["rows=broken.jsonl"], "broken.jsonl:1"),
    "texts": (["rows=texts.jsonl", "metrics=[exact_match]"], "metrics: looks at completions, and the rows are texts"),
    "system prompts alone": (["rows=system.jsonl"], "system.jsonl:1: is no question"),
    "rows longer than the model": (["rows=long.jsonl"], "longer than the 256 tokens that the model can read"),
    "a model without weights": (["against=weightless"], "weightless: '"),
    "a file for results": (["output=empty.jsonl"], "output: 'empty.jsonl' is a file"),
    "tasks without their package": (["harness=[hellaswag]"], "pip install 'ftune[harness]'"),
}

BROKEN = {
    "empty.jsonl": "",
    "broken.jsonl": '{"prompt": ',
    "texts.jsonl": '{"text": "the cat"}\n',
    "system.jsonl": '{"messages": [{"role": "system", "content": "the cat"}]}\n',
    "long.jsonl": json.dumps({"prompt": "the cat " * 300, "completion": "sat"}),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_evaluated_is_refused(
    what: str, trained: Path, ftune: Run, tmp_path: Path, tiny_model: Path
) -> None:
    if what == "tasks without their package" and find_spec("lm_eval"):
        pytest.skip("the package is installed")
    for name, content in BROKEN.items():
        (tmp_path / name).write_text(content)
    shutil.copytree(tiny_model, tmp_path / "weightless", ignore=shutil.ignore_patterns("*.safetensors"))
    rows = write_rows(tmp_path / "prompts.jsonl", [{"prompt": f"the cat {n}"} for n in range(3)])
    words, said = REFUSED[what]
    done = ftune("eval", trained, *QUICK, *(word.format(rows=rows) if "{rows}" in word else word for word in words))
    assert done.code == 2, done.err
    assert said in done.err
    assert "Traceback" not in done.err
    assert sum(line.startswith("error") for line in done.err.splitlines()) == 1
    assert done.out == ""
    assert not (trained / "eval/eval.json").exists()


def test_a_model_that_is_not_there(trained: Path, ftune: Run, tmp_path: Path) -> None:
    (tmp_path / "bare").mkdir()
    for path in ("./nowhere", "bare"):
        done = ftune("eval", path, f"rows={tmp_path / 'rows.jsonl'}", f"output={tmp_path / 'out'}")
        assert done.code == 2, done.err
        assert done.err.startswith(f"error: {path}: ")


def test_a_run_that_is_not_there_is_told_before_where_results_go(
    ftune: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = ftune("eval", "runs/nope")
    assert (done.code, done.out) == (2, "")
    assert "error: model: there is no folder 'runs/nope' here; for a model on the hub say where results go" in done.err


def test_completions_that_are_empty_are_counted(trained: Path, ftune: Run, tiny_model: Path, tmp_path: Path) -> None:
    """A model whose likeliest token is always padding: it has no words to look at, and all its answers are wrong."""
    from safetensors.torch import load_file, save_file

    silent = shutil.copytree(tiny_model, tmp_path / "silent")
    weights = load_file(silent / "model.safetensors")
    save_file(
        {**weights, "model.norm.weight": weights["model.norm.weight"] * 0},
        silent / "model.safetensors",
        {"format": "pt"},
    )
    done = ftune("eval", trained, *QUICK, f"against={silent}")
    assert done.code == 0, done.err
    assert {row["completions"]["before"] for row in samples(trained / "eval")} == {""}
    metrics = facts(trained / "eval")["metrics"]
    assert (metrics["empty"]["before"], metrics["exact_match"]["before"], metrics["length_words"]["before"]) == (
        1,
        0,
        0,
    )
    assert (metrics["distinct_3"]["before"], metrics["distinct_3"]["missing"]) == (None, 4)


def test_rows_that_the_model_cannot_read_are_left_out_and_counted(trained: Path, ftune: Run, tmp_path: Path) -> None:
    """Completions end where it can read no further, whatever they are batched with."""
    rows = [{"prompt": "the cat " * count, "completion": "sat"} for count in (300, 60, 3, 62)]
    path, found = write_rows(tmp_path / "long.jsonl", rows), []
    for size in (1, 4):
        words = (
            f"rows={path}",
            "forgetting=false",
            "likelihood=false",
            "max_new_tokens=100",
            f"micro_batch_size={size}",
        )
        done = ftune(
            "eval", trained, *words, "metrics=[{type: length, unit: tokens}]", f"output={tmp_path / str(size)}"
        )
        assert done.code == 0, done.err
        assert f"1 of 4 rows are longer than the 256 tokens that the model can read, first {path}:1" in done.err
        found.append([(row["completions"], row["scores"]["after"]) for row in samples(tmp_path / str(size))])
    assert found[0] == found[1]
    lengths = [scores["length_tokens"] for _, scores in found[0]]
    assert lengths[1] == 100
    assert 0 < lengths[2] < lengths[0] < 100  # as many as there is room for behind the prompt
    assert facts(tmp_path / "4")["left_out"] == 1
    assert facts(tmp_path / "4")["rows"] == 3


def test_what_a_row_or_a_model_writes_does_not_steer_the_terminal() -> None:
    assert _line("red \x1b[31m\n\ttext\x07 é") == r"red \x1b[31m text\x07 é"
