"""`ftune rm` on a tiny real model: what it leaves, that its head travels, that a resume changes nothing."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ftune.report.events import read_events
from tests.conftest import WORDS, Done, write_rows

Run = Callable[..., Done]
Write = Callable[..., Path]


def pairs(count: int) -> list[dict[str, object]]:
    """Preferences whose better answers say 'cat', so that there is something to learn."""
    return [
        {
            "prompt": f"{number}: say it",
            "chosen": f"the cat {WORDS[number % len(WORDS)]}",
            "rejected": f"{WORDS[number % len(WORDS)]} {WORDS[number % 7]} roofs nine",
        }
        for number in range(count)
    ]


def texts(count: int) -> list[dict[str, object]]:
    """Texts about cats and about birds."""
    return [
        {"text": f"{WORDS[number % 5]} {('cat', 'birds')[number % 2]} {number}", "label": ("good", "bad")[number % 2]}
        for number in range(count)
    ]


@pytest.fixture
def write(recipe: Write, tmp_path: Path) -> Write:
    """Writes an rm recipe; rows are pairs."""
    write_rows(tmp_path / "pairs.jsonl", pairs(24))
    write_rows(tmp_path / "texts.jsonl", texts(24))

    def of(**sections: object) -> Path:
        given: dict[str, Any] = {"data": {"train": "pairs.jsonl", "validation": 6, "max_length": 128}, **sections}
        return recipe(**{"type": "rm", **given})

    return of


CLASSIFIER: dict[str, Any] = {
    "data": {"train": "texts.jsonl", "validation": 6, "max_length": 128},
    "head": {"type": "classifier", "positive_class": "good"},
}
HEADS = {"scalar": {}, "classifier": CLASSIFIER}
METHODS: dict[str, Any] = {"lora": {"type": "lora", "rank": 4}, "full": "full"}


def reloaded(run: Path, base: Path, outputs: int) -> Any:
    """The result as plain transformers and peft load it, and its tokenizer."""
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = run / ("adapter" if (run / "adapter").is_dir() else "model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if folder.name == "model":
        return AutoModelForSequenceClassification.from_pretrained(folder).eval(), tokenizer
    model = AutoModelForSequenceClassification.from_pretrained(
        base, num_labels=outputs, pad_token_id=tokenizer.pad_token_id
    )
    return PeftModel.from_pretrained(model, folder).eval(), tokenizer


@torch.no_grad()
def logits(model: Any, tokenizer: Any, rows: list[list[int]]) -> torch.Tensor:
    """Of rows in one batch, as plain transformers pools them."""
    batch = tokenizer.pad({"input_ids": rows}, return_tensors="pt")
    out: torch.Tensor = model(**batch).logits
    return out


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("method", METHODS)
def test_the_head_travels_with_the_result(
    method: str, head: str, write: Write, ftune: Run, tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ftune.trainers.training as training

    trained: list[Any] = []
    honest = training.train

    def remembering(trainer: Any, *args: Any) -> Any:
        trained.append(trainer)
        return honest(trainer, *args)

    monkeypatch.setattr("ftune.trainers.rm.train", remembering)
    done = ftune("rm", write(peft=METHODS[method], schedule={"max_steps": 2}, **HEADS[head]))
    assert done.code == 0, done.err
    (trainer,) = trained
    rows = [trainer.eval_dataset[number]["input_ids"] for number in range(6)]
    model, tokenizer = reloaded(tmp_path / "runs/tiny", tiny_model, 1 if head == "scalar" else 2)
    with torch.no_grad():
        before = torch.cat([trainer.model(input_ids=torch.tensor([row])).logits for row in rows])
    assert before.abs().max() > 1e-4
    assert torch.allclose(logits(model, tokenizer, rows), before, atol=1e-5)
    if method == "lora":
        assert torch.allclose(logits(model.merge_and_unload(), tokenizer, rows), before, atol=1e-5)


def test_plain_transformers_pools_at_the_true_last_token_where_pad_was_eos(
    write: Write, ftune: Run, tmp_path: Path, tiny_model: Path
) -> None:
    from transformers import AutoTokenizer

    same = tmp_path / "same"
    shutil.copytree(tiny_model, same)
    tokenizer = AutoTokenizer.from_pretrained(same)
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.chat_template = tokenizer.chat_template.replace("+ '<|im_end|>\n'", "+ '<|im_end|>'")
    tokenizer.save_pretrained(same)
    done = ftune("rm", write(model={"path": str(same)}, peft="full", schedule={"max_steps": 1}))
    assert done.code == 0, done.err
    assert "no row ends with the padding token ('<|endoftext|>'" in done.err
    model, saved = reloaded(tmp_path / "runs/tiny", same, 1)
    assert saved.pad_token_id == model.config.pad_token_id != saved.eos_token_id
    turns = [{"role": "user", "content": "say it"}, {"role": "assistant", "content": "the cat"}]
    row = saved.apply_chat_template(turns)["input_ids"]
    assert row[-1] == saved.eos_token_id
    with torch.no_grad():
        hidden = model.model(torch.tensor([row])).last_hidden_state
    at_the_end = model.score(hidden[:, -1])
    pooled = logits(model, saved, [row, row + row])
    assert torch.allclose(pooled[:1], at_the_end, atol=1e-6)


@pytest.mark.parametrize("head", ["scalar", pytest.param("classifier", marks=pytest.mark.slow)])
def test_resume_is_bit_for_bit_the_run_that_never_stopped(head: str, write: Write, ftune: Run, tmp_path: Path) -> None:
    path = write(peft={"type": "lora", "rank": 4, "dropout": 0.2}, **HEADS[head])
    assert ftune("rm", path).code == 0
    run = tmp_path / "runs/tiny"
    whole = load_file(run / "adapter/adapter_model.safetensors")
    assert any(name.endswith("score.weight") for name in whole)
    history = [event for event in read_events(run / "events.jsonl") if event["kind"] == "step"]
    facts = (run / "adapter/reward_model.json").read_text()
    shutil.rmtree(run / "adapter")
    shutil.rmtree(run / "checkpoint-6")
    (run / "ftune.json").write_text('{"state": "running"}')
    torch.manual_seed(12345)
    done = ftune("rm", path, "--resume")
    assert done.code == 0, done.err
    again = load_file(run / "adapter/adapter_model.safetensors")
    assert all(torch.equal(again[name], value) for name, value in whole.items())
    assert (run / "adapter/reward_model.json").read_text() == facts
    events = [event for event in read_events(run / "events.jsonl") if event["kind"] == "step"]
    assert [event["loss"] for event in events] == [event["loss"] for event in history]


def test_a_run_killed_after_its_last_step_still_knows_its_held_out_scores(
    write: Write, ftune: Run, tmp_path: Path
) -> None:
    path = write()
    assert ftune("rm", path).code == 0
    run = tmp_path / "runs/tiny"
    facts = (run / "adapter/reward_model.json").read_text()
    shutil.rmtree(run / "adapter")
    (run / "ftune.json").write_text('{"state": "running"}')
    assert ftune("rm", path, "--resume").code == 0
    assert (run / "adapter/reward_model.json").read_text() == facts


def test_a_reward_model_learns_and_says_how_well(write: Write, ftune: Run, tmp_path: Path) -> None:
    done = ftune("rm", write(schedule={"max_steps": 40}, checkpoint={"every": "never"}, optim={"learning_rate": 0.02}))
    assert done.code == 0, done.err
    run = tmp_path / "runs/tiny"
    history = read_events(run / "events.jsonl")
    steps = [event for event in history if event["kind"] == "step"]
    assert steps[0]["loss"] == pytest.approx(math.log(2), abs=0.1)  # a narrow model: scores begin near 0, not at it
    assert {"accuracy", "margin", "answers", "tokens"} <= steps[0].keys()
    last = [event for event in history if event["kind"] == "eval"][-1]
    assert last["accuracy"] > 0.9
    assert last["accuracy_low"] <= last["accuracy"] <= last["accuracy_high"]
    assert sum(one["pairs"] for one in last["bins"]) == last["pairs"] == 6
    assert "length alone (the " in done.err
    worst = [json.loads(line) for line in (run / "pairs.jsonl").read_text().splitlines()]
    assert len(worst) == 6
    assert worst == sorted(worst, key=lambda row: row["margin"])
    assert worst[0]["margin"] == pytest.approx(worst[0]["chosen_score"] - worst[0]["rejected_score"], abs=1e-3)
    facts = json.loads((run / "adapter/reward_model.json").read_text())
    scores = [row[name] for row in worst for name in ("chosen_score", "rejected_score")]
    assert facts["mean"] == pytest.approx(sum(scores) / 12, abs=1e-3)
    assert facts["rows"] == 12
    assert facts["template"]
    card = (run / "README.md").read_text()
    assert "AutoPeftModelForSequenceClassification" in card
    assert "accuracy of length alone" in card


def test_a_classifier_learns_and_says_how_well(write: Write, ftune: Run, tmp_path: Path) -> None:
    optim = {"learning_rate": 0.02}
    done = ftune("rm", write(**CLASSIFIER, schedule={"max_steps": 40}, checkpoint={"every": "never"}, optim=optim))
    assert done.code == 0, done.err
    run = tmp_path / "runs/tiny"
    last = [event for event in read_events(run / "events.jsonl") if event["kind"] == "eval"][-1]
    assert last["accuracy"] > 0.9
    assert last["f1"] > 0.9
    facts = json.loads((run / "adapter/reward_model.json").read_text())
    assert (facts["kind"], facts["positive_class"], facts["template"]) == ("classifier", "good", None)
    assert facts["labels"] == ["bad", "good"]


@pytest.mark.parametrize("head", [pytest.param("scalar", marks=pytest.mark.slow), "classifier"])
def test_accumulation_changes_nothing(head: str, write: Write, ftune: Run, tmp_path: Path) -> None:
    path = write(**HEADS[head], checkpoint={"every": "never"}, schedule={"epochs": 1})
    for name, batch in (("whole", "{micro_batch_size: 7}"), ("parts", "{micro_batch_size: 1, global_batch_size: 7}")):
        assert ftune("rm", path, f"batch={batch}", f"output_dir=runs/{name}").code == 0
    found = [
        [event["loss"] for event in read_events(tmp_path / f"runs/{name}/events.jsonl") if event["kind"] == "step"]
        for name in ("whole", "parts")
    ]
    assert len(found[0]) == 3  # 18 rows: the last step has four
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_a_step_that_is_not_finite_is_skipped(
    write: Write, ftune: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ftune.trainers.pairwise import PairwiseTrainer

    honest = PairwiseTrainer.compute_loss

    def faulty(self: Any, *args: Any, **kwargs: Any) -> Any:
        loss = honest(self, *args, **kwargs)
        return loss * math.nan if self.state.global_step == 2 else loss

    monkeypatch.setattr(PairwiseTrainer, "compute_loss", faulty)
    done = ftune("rm", write())
    assert "step 3 skipped: loss nan" in done.err
    (skipped,) = [event for event in read_events(tmp_path / "runs/tiny/events.jsonl") if event["kind"] == "skipped"]
    assert len(skipped["rows"]) == 2
    assert all("pairs.jsonl:" in row for row in skipped["rows"])


def test_bad_rows_and_wrong_heads_are_refused_with_words(write: Write, ftune: Run, tmp_path: Path) -> None:
    assert (
        "one answer, where a chosen and a rejected one are needed"
        in ftune("rm", write(data={"train": "rows.jsonl"}), "--overwrite").err
    )
    asked = {**CLASSIFIER, "data": {"train": "pairs.jsonl"}}
    assert "the rows have no classes" in ftune("rm", write(**asked), "--overwrite").err
    unknown = {**CLASSIFIER, "head": {"type": "classifier", "positive_class": "godo"}}
    done = ftune("rm", write(**unknown), "--overwrite")
    assert done.code == 2
    assert "head.positive_class: no class 'godo'; did you mean 'good'?" in done.err


@pytest.mark.parametrize(("positive", "words"), [("good", "every training row is 'good'"), ("bad", "no training row")])
def test_a_class_without_rows_or_without_others_is_refused(
    positive: str, words: str, write: Write, ftune: Run, tmp_path: Path
) -> None:
    write_rows(tmp_path / "one.jsonl", [row | {"label": "good"} for row in texts(8)])
    head = {"type": "classifier", "positive_class": positive, "labels": ["good", "bad"]}
    done = ftune("rm", write(data={"train": "one.jsonl"}, head=head))
    assert done.code == 2
    assert words in done.err
    assert "good 8, bad 0" in done.err


def test_a_ranking_with_a_long_answer_is_told_in_pairs(write: Write, ftune: Run, tmp_path: Path) -> None:
    answers = [{"answer": words, "rank": rank} for rank, words in enumerate(("a cat", "birds", "cat " * 99))]
    rows = [{"prompt": f"{number}: say it", "answers": answers} for number in range(6)]
    write_rows(tmp_path / "ranked.jsonl", rows)
    done = ftune("rm", write(data={"train": "ranked.jsonl", "max_length": 64}, schedule={"max_steps": 1}))
    assert done.code == 0, done.err
    assert "warning: 67% of the pairs were dropped" in done.err
