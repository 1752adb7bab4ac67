"""Reward models and classifiers on judged rows: the numbers of their own training, counted rows, clear refusals."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ftune.core.errors import DataError, ModelError
from ftune.core.say import Say
from ftune.data.row import Row
from ftune.data.source import read_rows
from ftune.recipes.runs.eval_rows import JudgedRows
from ftune.recipes.runs.eval_scores import ScoresReport, evaluate_scores
from ftune.report.events import read_events
from tests.conftest import WORDS, Done, write_rows
from tests.rewards.conftest import WORD_PIECES

Run = Callable[..., Done]
Write = Callable[..., Path]


def scores_of(path: Path | str, rows: Path, micro_batch_size: int = 3) -> ScoresReport:
    parts = [JudgedRows(list(read_rows(str(rows))), None)]
    return evaluate_scores(str(path), parts, device="cpu", micro_batch_size=micro_batch_size, say=Say())


def pairs(count: int) -> list[dict[str, object]]:
    """Preferences, some of them rankings of three, one too long for the run, one a tie."""
    rows: list[dict[str, object]] = []
    for number in range(count):
        best, worst = f"the cat {WORDS[number % 15]}", f"{WORDS[number % 15]} {WORDS[number % 7]} roofs nine"
        answers = [{"answer": best, "rank": 1}, {"answer": "birds fly", "rank": 2}, {"answer": worst, "rank": 3}]
        rows.append({"prompt": f"{number}: say it", "answers": answers[: 2 + number % 2]})
    long = [{"answer": "the cat " * 99, "rank": 1}, {"answer": "nine", "rank": 2}]
    tie = [{"answer": "the cat", "rank": 1}, {"answer": "nine", "rank": 1}]
    return [*rows, {"prompt": "long", "answers": long}, {"prompt": "tie", "answers": tie}]


def texts(count: int) -> list[dict[str, object]]:
    kinds = [("cat", "good"), ("birds", "bad"), ("roofs", "fair")]
    return [
        {"text": f"{WORDS[number % 5]} {kinds[number % 3][0]} {number}", "label": kinds[number % 3][1]}
        for number in range(count)
    ]


def last_look(run: Path) -> dict[str, Any]:
    return [event for event in read_events(run / "events.jsonl") if event["kind"] == "eval"][-1]


def test_pairs_get_the_numbers_of_the_run_that_trained_on_them(recipe: Write, ftune: Run, tmp_path: Path) -> None:
    write_rows(tmp_path / "pairs.jsonl", pairs(12))
    held_out = write_rows(tmp_path / "held_out.jsonl", pairs(9))
    data = {"train": "pairs.jsonl", "validation": "held_out.jsonl", "max_length": 64}
    done = ftune("rm", recipe(type="rm", data=data, schedule={"max_steps": 2}, checkpoint={"every": "never"}))
    assert done.code == 0, done.err
    recorded = last_look(tmp_path / "runs/tiny")
    assert 0 < recorded["accuracy"] < 1  # so that equal is more than both right everywhere
    report = scores_of(tmp_path / "runs/tiny", held_out)
    for name in ("accuracy", "accuracy_low", "margin", "calibration_error", "length_accuracy", "pairs", "prompts"):
        assert report.facts[name] == pytest.approx(recorded[name], rel=1e-4), name
    assert (report.rows, report.scored, report.missing) == (11, 17, 2)
    assert report.dropped["longer than max_length"] == 1
    metrics = report.metrics()
    assert metrics["preference_accuracy"] == {
        "after": report.facts["accuracy"],
        "after_low": report.facts["accuracy_low"],
        "after_high": report.facts["accuracy_high"],
        "rows": 17,
        "missing": 2,
        "kind": {"better": "higher", "scale": "share"},
    }
    assert metrics["calibration_error"]["kind"]["better"] == "lower"
    margins = [sample["margin"] for sample in report.samples]
    assert margins == sorted(margins)
    assert sum(margins) / 17 == pytest.approx(report.facts["margin"], abs=1e-4)
    assert any("1 longer than max_length" in line for line in report.lines())
    of_adapter = scores_of(tmp_path / "runs/tiny/adapter", held_out, micro_batch_size=1)
    assert of_adapter.facts["margin"] == pytest.approx(report.facts["margin"], abs=1e-6)
    plain = write_rows(tmp_path / "plain.jsonl", texts(2))
    with pytest.raises(DataError, match="where a chosen and a rejected one are needed"):
        scores_of(tmp_path / "runs/tiny", plain)
    done = ftune("eval", tmp_path / "runs/tiny", f"rows={held_out}", "chat_template=chatml")
    assert (done.code, "scores texts, with the template it was trained on; remove it" in done.err) == (2, True)


def test_texts_get_the_numbers_of_the_run_that_trained_on_them(recipe: Write, ftune: Run, tmp_path: Path) -> None:
    write_rows(tmp_path / "texts.jsonl", texts(12))
    held_out = write_rows(tmp_path / "held_out.jsonl", texts(10))
    data = {"train": "texts.jsonl", "validation": "held_out.jsonl", "max_length": 64}
    head = {"type": "classifier", "positive_class": "good"}
    done = ftune(
        "rm",
        recipe(type="rm", data=data, head=head, peft="full", schedule={"max_steps": 2}, checkpoint={"every": "never"}),
    )
    assert done.code == 0, done.err
    recorded = last_look(tmp_path / "runs/tiny")
    report = scores_of(tmp_path / "runs/tiny", held_out)
    for name in ("accuracy", "f1", "loss", "f1_by_class", "most_frequent_class"):
        assert report.facts[name] == pytest.approx(recorded[name], rel=1e-4), name
    assert report.confusion is not None
    right = sum(report.confusion[name].get(name, 0) for name in report.confusion)
    assert right / 10 == report.metrics()["accuracy"]["after"]
    assert right == sum(sample["label"] == sample["predicted"] for sample in report.samples)
    assert report.details()["confusion"] == report.confusion
    unknown = write_rows(tmp_path / "unknown.jsonl", [{"text": "a cat", "label": "splendid"}])
    with pytest.raises(DataError, match=r"unknown\.jsonl:1: its class 'splendid' is none of the classifier's"):
        scores_of(tmp_path / "runs/tiny", unknown)


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    """A BERT with three classes that reads up to twelve tokens."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizer

    folder = tmp_path / "bert"
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(WORD_PIECES) + "\n", encoding="utf-8")
    torch.manual_seed(0)
    labels = ["awful", "fine", "nice"]
    config = BertConfig(
        vocab_size=len(WORD_PIECES), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=12, id2label=dict(enumerate(labels)), initializer_range=0.5,
        label2id={label: number for number, label in enumerate(labels)},
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(folder)
    BertTokenizer(str(folder / "vocab.txt"), model_max_length=12).save_pretrained(folder)
    return folder


def test_any_encoder_is_told_by_its_own_forward(encoder: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    said = ["the cat", "awful mat", "nice cats sat on the mat", "on", "cat " * 30]
    wanted = ["fine", "awful", "nice", "nice", "awful"]
    rows = [
        Row({"text": text, "label": label}, "t.jsonl", line)
        for line, (text, label) in enumerate(zip(said, wanted, strict=True), start=1)
    ]
    model = AutoModelForSequenceClassification.from_pretrained(encoder).eval()
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    short = [*said[:4], "cat " * 10]  # what is left of the last row, between its marks
    with torch.no_grad():
        logits = torch.cat([model(**tokenizer(text, return_tensors="pt")).logits for text in short])
    report = evaluate_scores(str(encoder), [JudgedRows(rows, None)], device="cpu", micro_batch_size=2, say=Say())
    found = [sample["probability"] for sample in report.samples]
    assert found == pytest.approx(logits.softmax(1).amax(1).tolist(), abs=1e-4)
    names = [model.config.id2label[place] for place in logits.argmax(1).tolist()]
    assert [sample["predicted"] for sample in report.samples] == names
    assert report.scored == 5
    preferences = [Row({"prompt": "a", "chosen": "b", "rejected": "c"}, "p.jsonl", 1)]
    with pytest.raises(DataError, match="a classifier learns from a text and its class"):
        evaluate_scores(str(encoder), [JudgedRows(preferences, None)], device="cpu", micro_batch_size=2, say=Say())


def test_classes_that_do_not_exclude_each_other_have_no_accuracy(encoder: Path) -> None:
    config = (encoder / "config.json").read_text()
    (encoder / "config.json").write_text(
        config.replace('"model_type"', '"problem_type": "multi_label_classification", "model_type"')
    )
    with pytest.raises(ModelError, match="several of its classes at once"):
        evaluate_scores(str(encoder), [], device="cpu", micro_batch_size=2, say=Say())


def test_an_encoder_of_one_score_tells_pairs(encoder: Path, tmp_path: Path) -> None:
    """Whole texts are read between the marks of the tokenizer, and what follows their common beginning is counted."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(encoder)
    model.classifier, model.config.id2label = torch.nn.Linear(16, 1), {0: "score"}
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "one")
    rows = [
        Row({"chosen": "the cat sat", "rejected": "the cat awful mat on the cat"}, "p.jsonl", 1),
        Row({"chosen": "on the nice mat", "rejected": "on the cat"}, "p.jsonl", 2),
    ]
    with torch.no_grad():
        wanted = [
            float(model.eval()(**tokenizer(row.values[side], return_tensors="pt")).logits)
            for row in rows
            for side in ("chosen", "rejected")
        ]
    report = evaluate_scores(
        str(tmp_path / "one"), [JudgedRows(rows, None)], device="cpu", micro_batch_size=4, say=Say()
    )
    by_row = sorted(report.samples, key=lambda sample: sample["row"])
    found = [sample[f"{side}_score"] for sample in by_row for side in ("chosen", "rejected")]
    assert found == pytest.approx(wanted, abs=1e-3)
    assert [part["where"] for part in report.facts["by_length"]] == [
        "the better answer is longer",
        "the better answer is shorter",
    ]
