"""What is known of rows before anything is tokenised."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ftune.core.say import Say
from ftune.data.counts import bins_of
from ftune.recipes.load import load_recipe
from ftune.recipes.runs.inputs import load_inputs
from ftune.recipes.runs.plan_rows import Rows, rows_of_inputs, rows_of_recipe

Recipe = Callable[..., Path]


def loaded(path: Path, *overrides: str) -> Any:
    return load_recipe("sft", path, overrides).recipe


def recorded(recipe: Any, **counts: object) -> Path:
    """What a run of the recipe leaves."""
    folder = Path(recipe.output_dir)
    folder.mkdir(parents=True)
    (folder / "recipe.resolved.json").write_text(json.dumps(recipe.resolved()))
    (folder / "data.json").write_text(json.dumps({"train": {"counts": counts}}))
    return folder


def test_lines_are_counted_and_tokens_guessed(recipe: Recipe) -> None:
    path = recipe()
    size = Path("rows.jsonl").stat().st_size
    rows = rows_of_recipe(loaded(path), 0)
    assert (rows.longest, rows.count, rows.tokens, rows.counted) == (128, 24, size // 4, False)
    assert "worst case" in rows.said_by
    assert not rows.equal


@pytest.mark.parametrize(
    ("override", "count"),
    [("data.validation=4", 20), ("data.validation=0.25", 18), ("data.train=[{path: rows.jsonl, rows: 5}]", 5)],
)
def test_rows_that_are_not_trained_do_not_count(recipe: Recipe, override: str, count: int) -> None:
    assert rows_of_recipe(loaded(recipe(), override), 0).count == count


def test_a_model_cannot_read_more_than_it_can(recipe: Recipe) -> None:
    assert rows_of_recipe(loaded(recipe()), 64).longest == 64


def test_nobody_counts_other_sources(recipe: Recipe) -> None:
    path = recipe(data={"train": "rows.csv"})
    Path("rows.csv").write_text("text\na\n")
    rows = rows_of_recipe(loaded(path), 0)
    assert (rows.longest, rows.count, rows.mean) == (1024, None, 1024.0)


def test_an_earlier_run_of_the_same_rows_knows_them(recipe: Recipe) -> None:
    path = recipe()
    folder = recorded(loaded(path), longest=77, kept=24, tokens=1000)
    rows = rows_of_recipe(loaded(path, "batch.micro_batch_size=1"), 0)
    assert (rows.longest, rows.count, rows.tokens, rows.counted) == (77, 24, 1000, True)
    assert str(folder / "data.json") in rows.said_by
    assert rows_of_recipe(loaded(path, "data.max_length=64"), 0).longest == 64  # other rows: the bound
    assert not rows_of_recipe(loaded(path, "seed=5"), 0).counted
    os.utime("rows.jsonl", (2**33, 2**33))  # changed since
    assert not rows_of_recipe(loaded(path), 0).counted


def test_the_longest_rows_make_the_largest_batch(recipe: Recipe) -> None:
    path = recipe()
    lengths = [3, 3, 40, 41, 42, 55, 90]
    recorded(
        loaded(path), longest=90, kept=7, tokens=sum(lengths), lengths={"unit": "tokens", "bins": bins_of(lengths)}
    )
    rows = rows_of_recipe(loaded(path), 0)
    for number in range(1, len(lengths) + 1):
        most = sum(sorted(lengths)[-number:])
        assert most <= rows.most(number) <= min(most + 4 * number, 90 * number), "bins are 5 tokens wide"
    assert rows.most(100) == rows.most(7)
    exact = replace(rows, lengths=((90, 1), (55, 1), (41, 2), (3, 2)))
    assert [exact.most(number) for number in (1, 2, 4, 5)] == [90, 145, 227, 230]
    assert Rows(64, "nobody knows more").most(3) == 192


@pytest.mark.parametrize("broken", [3, "x", {"bins": 3}, {"bins": [{"low": 1}]}, {"bins": []}])
def test_a_histogram_that_is_none_says_nothing(recipe: Recipe, broken: object) -> None:
    path = recipe()
    recorded(loaded(path), longest=77, kept=24, tokens=1000, lengths=broken)
    assert rows_of_recipe(loaded(path), 0).most(2) == 154


@pytest.mark.parametrize("content", ["", "[]", '{"train": 3}', '{"train": {"counts": {"longest": "x"}}}'])
def test_a_broken_record_is_no_record(recipe: Recipe, content: str) -> None:
    path = recipe()
    (recorded(loaded(path), longest=9) / "data.json").write_text(content)
    assert not rows_of_recipe(loaded(path), 0).counted


def test_a_pair_is_as_long_as_one_of_its_answers(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": f"{number}", "chosen": "a " * 9, "rejected": "b " * 9} for number in range(4)]
    Path("pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = f"type: rm\nmodel: {{path: {tiny_model}}}\ndata: {{train: pairs.jsonl}}\n"
    recipe: Any = load_recipe("rm", Path("r.yaml"), text=text).recipe
    rows_found = rows_of_inputs(load_inputs(recipe, Say()))
    assert rows_found.count == 4
    assert rows_found.longest / 2 < rows_found.mean <= rows_found.longest
