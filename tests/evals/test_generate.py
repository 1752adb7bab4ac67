"""Greedy generation does not depend on batching, and equals transformers' own on one prompt."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ftune.evals.generate import generate
from ftune.evals.text_match import exact_match, json_match, metrics_for, valid_json
from tests.conftest import Done, chat_rows, write_rows


def test_batches_and_order_do_not_matter(tiny_model: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    prompts = [tokenizer(" ".join(["the cat"] * size)).input_ids for size in (5, 1, 9, 3, 2)]
    stop = [tokenizer.eos_token_id]

    def made(size: int) -> list[str]:
        return generate(model, tokenizer, prompts, stop_ids=stop, max_new_tokens=8, batch_size=size)

    alone = []
    for ids in prompts:
        row = model.generate(torch.tensor([ids]), max_new_tokens=8, do_sample=False, eos_token_id=stop, pad_token_id=0)
        alone.append(tokenizer.decode(row[0, len(ids) :], skip_special_tokens=True))
    assert made(1) == alone
    assert made(2) == alone
    assert made(5) == alone


@pytest.mark.parametrize(
    ("completion", "reference", "scores"),
    [
        ('{"a": 1, "b": null}', '{"a": 1, "b": null}', (1, 1, 1)),
        (' {"a": 1, "b": null}\n', '{"a": 1, "b": null}', (1, 1, 1)),
        ('{"b": null, "a": 1}', '{"a": 1, "b": null}', (0, 1, 1)),
        ('{"a": 1}', '{"a": 1, "b": null}', (0, 1, 0.5)),
        ("a: 1", '{"a": 1, "b": null}', (0, 0, 0)),
        ("[" * 5000, '{"a": 1}', (0, 0, 0)),
        ("", '{"a": 1}', (0, 0, 0)),
    ],
)
def test_scores(completion: str, reference: str, scores: tuple[float, float, float]) -> None:
    found = (metric(completion, reference) for metric in (exact_match, valid_json, json_match))
    assert tuple(found) == scores


def test_json_metrics_only_for_json_references() -> None:
    assert list(metrics_for(["{}", '{"a": 1}'])) == ["exact match", "valid JSON", "JSON fields right"]
    assert list(metrics_for(["{}", "text"])) == ["exact match"]


@pytest.mark.parametrize("peft", ["lora", "full"])
def test_eval_of_a_run(recipe: Callable[..., Path], ftune: Callable[..., Done], tmp_path: Path, peft: str) -> None:
    write_rows(tmp_path / "test.jsonl", chat_rows(3, start=50))
    path = recipe(data={"train": "rows.jsonl", "validation": "test.jsonl"}, peft=peft)
    assert ftune("sft", path).code == 0
    done = ftune("eval", "runs/tiny", "max_new_tokens=6", "micro_batch_size=2")
    assert done.code == 0, done.err
    assert "on 3 held-out rows" in done.out
    facts = json.loads((tmp_path / "runs/tiny/eval/eval.json").read_text())
    assert facts["rows"] == 3
    assert facts["metrics"]["exact match"].keys() == {"before", "after"}
    samples = [json.loads(line) for line in (tmp_path / "runs/tiny/eval/samples.jsonl").read_text().splitlines()]
    assert [sample["reference"] for sample in samples] == [row["messages"][1]["content"] for row in chat_rows(3, 50)]  # type: ignore[index]
    assert (tmp_path / "runs/tiny/eval/table.txt").read_text().strip() == done.out.strip()


def test_eval_refuses_what_is_no_finished_run(
    recipe: Callable[..., Path], ftune: Callable[..., Done], tmp_path: Path
) -> None:
    recipe()
    (tmp_path / "folder").mkdir()
    assert "is no run of ftune" in ftune("eval", "folder").err
    (tmp_path / "folder/ftune.json").write_text('{"state": "stopped"}')
    assert "is stopped, not done" in ftune("eval", "folder").err


def test_eval_refuses_runs_of_other_commands(ftune: Callable[..., Done], tmp_path: Path) -> None:
    (tmp_path / "rm").mkdir()
    (tmp_path / "rm/ftune.json").write_text('{"state": "done"}')
    (tmp_path / "rm/recipe.resolved.json").write_text('{"type": "rm"}')
    done = ftune("eval", tmp_path / "rm")
    assert done.code == 2
    assert "is a run of 'ftune rm'" in done.err
