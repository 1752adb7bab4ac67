"""Tasks of lm-evaluation-harness: what its results become, and a task of one's own where the package is installed."""

import json
from pathlib import Path
from typing import Any

import pytest

from ftune.core.errors import DataError
from ftune.evals import harness
from ftune.evals.intervals import compare
from ftune.evals.scored import Scored


def sample(filtered: str = "none", **metrics: object) -> dict[str, Any]:
    return {"doc_id": 0, "filter": filtered, "metrics": list(metrics), **metrics}


RESULTS: dict[str, Any] = {
    "results": {
        "maths": {"name": "maths", "alias": "maths", "sample_len": 4, "exact,strict": 0.25, "exact,flexible": 0.5},
        "letters": {"acc,none": 0.5, "acc_stderr,none": "N/A", "sample_len": 4},
        "a": {"acc,none": 1.0, "sample_len": 1},
        "b": {"acc,none": 1 / 3, "sample_len": 3},
        "corpus": {"bleu,none": 12.5, "sample_len": 2},
        "text": {"word_perplexity,none": 9.0, "broken,none": float("nan"), "sample_len": 2},
    },
    "group_subtasks": {"letters": ["a", "b"], "maths": []},
    "higher_is_better": {
        "maths": {"exact": True}, "a": {"acc": True}, "b": {"acc": True}, "corpus": {"bleu": True},
        "text": {"word_perplexity": False},
    },
    "samples": {
        "maths": [*[sample("strict", exact=each) for each in (1, 0, 0, 0)],
                  *[sample("flexible", exact=each) for each in (1, 1, 0, 0)]],
        "a": [sample(acc=1.0)],
        "b": [sample(acc=1.0), sample(acc=0.0), sample(acc=False)],
        "corpus": [sample(bleu=("wanted", "said")), sample(bleu=("wanted", "said"))],
        "text": [sample(word_perplexity=(-3.0, 2)), sample(word_perplexity=(-1.0, 1))],
    },
}  # fmt: skip


def test_values_have_the_rows_that_they_are_the_mean_of() -> None:
    scored = harness._scored(RESULTS)
    assert list(scored) == [
        "maths exact (strict)", "maths exact (flexible)", "letters acc", "corpus bleu", "text word_perplexity",
    ]  # fmt: skip
    assert scored["maths exact (strict)"].rows == [1, 0, 0, 0]
    assert scored["maths exact (flexible)"].value == 0.5
    assert scored["letters acc"].rows == [1, 1, 0, 0]
    assert (scored["corpus bleu"].rows, scored["corpus bleu"].value) == ([], 12.5)
    assert (scored["corpus bleu"].kind.scale, scored["letters acc"].kind.scale) == ("number", "share")
    assert (scored["text word_perplexity"].kind.better, scored["letters acc"].kind.better) == ("lower", "higher")


def test_a_mean_that_is_another_one_keeps_its_value() -> None:
    """A group may weigh its tasks alike, and then no row has its share in the value."""
    changed = {**RESULTS["results"], "letters": {"acc,none": 2 / 3}}
    value = harness._scored({**RESULTS, "results": changed})["letters acc"]
    assert (value.rows, value.value) == ([], 2 / 3)
    compared = compare({"acc": value}, {"acc": Scored([], value.kind, whole=0.75)})["acc"]
    assert (compared.before, compared.after, compared.low, compared.better) == (2 / 3, 0.75, None, None)
    assert compared.difference == pytest.approx(1 / 12)


def test_a_task_of_ones_own(tiny_model: Path, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    rows = [{"q": "the cat", "words": [" sat", " fly"], "right": number % 2} for number in range(5)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "cats.yaml").write_text(
        f"task: cats\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {tmp_path}/rows.jsonl}}}}\n"
        "test_split: test\noutput_type: multiple_choice\ndoc_to_text: '{{q}}'\ndoc_to_choice: '{{words}}'\n"
        "doc_to_target: '{{right}}'\nmetric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"
    )
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tiny_model), AutoTokenizer.from_pretrained(tiny_model)
    found = harness.harness_scores(model, tokenizer, [str(tmp_path / "cats.yaml")], limit=4, batch_size=2)
    assert found.keys() == {"cats acc"}
    assert sorted(found["cats acc"].rows) == [0, 0, 1, 1]  # type: ignore[type-var]
    with pytest.raises(DataError, match="'hellaswga' is neither a task"):
        harness.harness_scores(model, tokenizer, ["hellaswga"], limit=4, batch_size=2)
