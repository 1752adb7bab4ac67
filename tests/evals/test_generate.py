"""Greedy generation does not depend on batching, and equals transformers' own on one prompt."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ftune.evals.generate import generate
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


@pytest.mark.parametrize("wrapped", [False, True])
def test_what_an_author_recommends_for_generation_changes_nothing(tiny_model: Path, wrapped: bool) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    if wrapped:
        model = get_peft_model(model, LoraConfig(target_modules=["q_proj"]))
    prompts = [tokenizer("the cat sat on the mat").input_ids, tokenizer("nine").input_ids]

    def made() -> list[str]:
        return generate(model, tokenizer, prompts, stop_ids=[], max_new_tokens=12, batch_size=2)

    plain, config = made(), model.generation_config
    for recommended in ({"repetition_penalty": 5.0}, {"num_beams": 3, "no_repeat_ngram_size": 1}, {"max_length": 3}):
        config.update(**recommended)
        assert made() == plain
    assert model.generation_config is config
    assert config.repetition_penalty == 5.0


@pytest.mark.parametrize("peft", ["lora", pytest.param("full", marks=pytest.mark.slow)])
def test_eval_of_a_run(recipe: Callable[..., Path], ftune: Callable[..., Done], tmp_path: Path, peft: str) -> None:
    write_rows(tmp_path / "test.jsonl", chat_rows(3, start=50))
    path = recipe(data={"train": "rows.jsonl", "validation": "test.jsonl"}, peft=peft)
    assert ftune("sft", path).code == 0
    done = ftune("eval", "runs/tiny", "max_new_tokens=6", "micro_batch_size=2")
    assert done.code == 0, done.err
    assert "on 3 held-out rows" in done.out
    facts = json.loads((tmp_path / "runs/tiny/eval/eval.json").read_text())
    assert facts["rows"] == 3
    assert facts["metrics"]["exact_match"].keys() >= {"before", "after", "difference", "low", "high", "better", "worse"}
    samples = [json.loads(line) for line in (tmp_path / "runs/tiny/eval/samples.jsonl").read_text().splitlines()]
    assert [sample["reference"] for sample in samples] == [row["messages"][1]["content"] for row in chat_rows(3, 50)]  # type: ignore[index]
    table = (tmp_path / "runs/tiny/eval/table.txt").read_text()
    assert done.out.strip() == f"{table.strip()}\n\nreport: runs/tiny/report.html"


def test_eval_refuses_what_is_no_finished_run(
    recipe: Callable[..., Path], ftune: Callable[..., Done], tmp_path: Path
) -> None:
    recipe()
    (tmp_path / "folder").mkdir()
    assert "holds neither a run, an adapter nor a model" in ftune("eval", "folder").err
    (tmp_path / "folder/ftune.json").write_text('{"state": "stopped"}')
    assert "is stopped, not done" in ftune("eval", "folder").err
