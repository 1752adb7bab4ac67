"""`ftune data`: preview, check and convert as a person runs them."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ftune.core.several import several
from tests.conftest import Done, chat_rows, write_rows

Run = Callable[..., Done]
Write = Callable[..., Path]

PAIRS = [{"prompt": f"the cat {number}", "chosen": "sat on a mat", "rejected": "saw nine birds"} for number in range(6)]
DIRTY: list[Any] = [
    *chat_rows(12),
    chat_rows(1)[0],
    {"messages": [{"role": "user", "content": "no answer"}]},
    {"messages": 5},
    {"messages": [{"role": "user", "content": "long"}, {"role": "assistant", "content": "word " * 300}]},
    {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "ask me@example.org"}]},
]


@pytest.fixture
def dirty(recipe: Write, tmp_path: Path) -> Path:
    """A recipe of rows with one of each: a duplicate, no answer, nonsense, a long one, an address, a broken line."""
    write_rows(tmp_path / "dirty.jsonl", DIRTY)
    with (tmp_path / "dirty.jsonl").open("a") as file:
        file.write('{"messages": [{"role"\n')
    return recipe(data={"train": "dirty.jsonl", "max_length": 128})


def test_check_counts_every_row_and_tells_what_to_do(dirty: Path, ftune: Run) -> None:
    done = ftune("data", "check", dirty, "--json")
    assert done.code == 0, done.err
    report = json.loads(done.out)
    (train,) = report["parts"]
    assert (train["read"], train["kept"]) == (18, 14)
    found = {finding["id"]: finding for finding in report["findings"]}
    assert found["bad_rows"]["count"] == 3
    assert found["duplicates"]["places"] == ["dirty.jsonl:13 (as dirty.jsonl:1)"]
    assert found["too_long"]["places"] == ["dirty.jsonl:16"]
    assert found["emails"]["severity"] == "info"
    assert "example.org" not in done.out
    assert report["understood"][0].startswith("dirty.jsonl: messages (key 'messages'")


def test_check_in_words_and_as_a_page(dirty: Path, ftune: Run, tmp_path: Path) -> None:
    done = ftune("data", "check", dirty, "--html", "check.html")
    assert done.code == 0
    assert "train: 18 rows read, 14 kept" in done.out
    assert "dirty.jsonl:18" in done.out
    assert done.out.rstrip().endswith("findings")
    assert all(len(line) <= 100 for line in done.out.splitlines())
    page = (tmp_path / "check.html").read_text()
    assert "<svg" in page
    assert not re.search(r"(?:src|href|url\()\W*http|@import", page)  # nothing is fetched


def test_strict_is_1_with_findings_and_0_without(dirty: Path, recipe: Write, ftune: Run, tmp_path: Path) -> None:
    assert ftune("data", "check", dirty, "--strict").code == 1
    distinct = [{"prompt": f"{word} {number}", "completion": f"{number} {word}"} for number, word in
                enumerate(["cat", "mat", "nine", "small", "birds"])]  # fmt: skip
    write_rows(tmp_path / "clean.jsonl", distinct)
    done = ftune("data", "check", recipe(data={"train": "clean.jsonl"}), "--strict")
    assert (done.code, done.out.rstrip().splitlines()[-1]) == (0, "clean")


def test_rows_of_two_layouts_are_no_clean_rows(recipe: Write, ftune: Run, tmp_path: Path) -> None:
    """Both would be read as plain text, if only the first did not look like something else."""
    write_rows(tmp_path / "odd.jsonl", [{"text": "nine birds", "label": 1}, {"text": "a mat", "label": 0.5}])
    path = recipe(data={"train": "odd.jsonl"})
    refused = ftune("sft", path)
    assert refused.code == 2
    said = refused.err.partition("error: ")[2].strip()
    assert said.startswith("odd.jsonl:2: this row looks like text")
    checked = ftune("data", "check", path, "--strict", "--json")
    (finding,) = [one for one in json.loads(checked.out)["findings"] if one["id"] == "refused"]
    assert (checked.code, finding["places"]) == (1, ["odd.jsonl:2"])
    assert said in checked.err
    assert f"training would not start: {said}" in ftune("data", "preview", path).err
    dropping = ftune("data", "preview", path, "data.on_bad_row=drop", "data.format=text")
    assert "training would not start" not in dropping.err


def test_check_says_what_holds_no_rows_out(recipe: Write, ftune: Run) -> None:
    path = recipe(data={"train": "rows.jsonl", "validation": {"fraction": 0.2, "group": "user"}})
    checked = ftune("data", "check", path, "--strict")
    said = "rows.jsonl:1: there is no column 'user' to hold rows out by"
    assert (checked.code, f"training would not start: {said}" in checked.err) == (1, True)
    assert said in ftune("sft", path).err
    few = ftune("data", "check", path, "data.validation=0.01")
    assert "training would not start: data.validation: cannot hold out 0.01 of 24 rows" in few.err


def test_what_cannot_be_read_is_2(recipe: Write, ftune: Run, tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    done = ftune("data", "check", recipe(data={"train": "empty.jsonl"}))
    assert (done.code, done.out) == (2, "")
    assert "there are no rows in it" in done.err


def test_check_knows_the_rows_that_are_held_out(recipe: Write, ftune: Run, tmp_path: Path) -> None:
    rows = [*chat_rows(20), *chat_rows(3)]
    (tmp_path / "line.json").write_text(json.dumps(rows))  # all on one line
    report = json.loads(ftune("data", "check", recipe(data={"train": "line.json", "validation": 6}), "--json").out)
    assert [(part["part"], part["read"]) for part in report["parts"]] == [("train", 17), ("held-out", 6)]
    assert "leaked" not in {finding["id"] for finding in report["findings"]}


def test_check_finds_held_out_rows_among_the_training_rows(recipe: Write, ftune: Run, tmp_path: Path) -> None:
    write_rows(tmp_path / "held.jsonl", chat_rows(2))
    path = recipe(data={"train": "rows.jsonl", "validation": "held.jsonl"})
    report = json.loads(ftune("data", "check", path, "--json").out)
    (leaked,) = [finding for finding in report["findings"] if finding["id"] == "leaked"]
    assert leaked["count"] == 2
    assert "2 held-out rows are also training rows" in ftune("sft", path).err


def test_preview_shows_good_rows_and_names_the_bad(dirty: Path, ftune: Run) -> None:
    done = ftune("data", "preview", dirty, "-n", "1")
    assert done.code == 0
    assert "dirty.jsonl:1: " in done.out
    assert "dirty.jsonl:15: 'messages' is the number 5" in done.err
    assert "set 'data.on_bad_row: drop'" in done.err


def test_preview_of_pairs_shows_both_sides_and_says_that_sft_needs_one(
    recipe: Write, ftune: Run, tmp_path: Path
) -> None:
    write_rows(tmp_path / "pairs.jsonl", PAIRS)
    done = ftune("data", "preview", recipe(data={"train": "pairs.jsonl"}), "-n", "1")
    assert done.code == 0
    assert "pairs.jsonl:1: chosen," in done.out
    assert "pairs.jsonl:1: rejected," in done.out
    assert "data.on_preference: chosen" in done.err


def test_preview_of_packed_rows_shows_borders_and_fill(recipe: Write, ftune: Run) -> None:
    done = ftune("data", "preview", recipe(data={"train": "rows.jsonl", "max_length": 128, "packing": True}), "-n", "1")
    assert "packed sequence 1: " in done.out
    assert re.search(r"packing: 24 rows in \d+ sequences, \d+\.\d% full, each of the [\d,]+ tokens once", done.out)


def test_packing_that_loses_a_row_is_never_trained_on(
    recipe: Write, ftune: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ftune.data.pack.pack", lambda lengths, capacity: [[0, 1], [1]])
    done = ftune("sft", recipe(data={"train": "rows.jsonl", "max_length": 128, "packing": True}))
    assert (done.code, "packing lost or repeated a row" in done.err) == (2, True)


@pytest.mark.parametrize("rows", [chat_rows(4), PAIRS, [{"text": "the cat"}], [{"prompt": "a", "completion": "b"}]])
def test_converted_rows_are_the_same_rows(recipe: Write, ftune: Run, tmp_path: Path, rows: list[Any]) -> None:
    write_rows(tmp_path / "some.jsonl", rows)
    path = recipe(data={"train": "some.jsonl"})
    done = ftune("data", "convert", path, "--to", "messages", "clean.jsonl")
    assert done.code == 0, done.err
    assert f"{several(len(rows), 'row')}: clean.jsonl" in done.out
    before = json.loads(ftune("data", "preview", path, "--json").out)["rows"]
    after = json.loads(ftune("data", "preview", path, "--json", "data.train=clean.jsonl").out)["rows"]
    assert [row["ids"] for row in before] == [row["ids"] for row in after]


def test_convert_leaves_out_what_it_cannot_use_and_says_so(dirty: Path, ftune: Run, tmp_path: Path) -> None:
    done = ftune("data", "convert", dirty, "clean.jsonl")
    assert "left out: dirty.jsonl:15: 'messages' is the number 5" in done.err
    assert "left out: dirty.jsonl:18:" in done.err
    assert len((tmp_path / "clean.jsonl").read_text().splitlines()) == 16


def test_convert_takes_its_file_and_overrides_in_any_order(recipe: Write, ftune: Run, tmp_path: Path) -> None:
    write_rows(tmp_path / "pairs.jsonl", PAIRS)
    path = recipe()
    assert ftune("data", "convert", path, "data.train=pairs.jsonl", "--to", "messages", "a.jsonl").code == 0
    assert ftune("data", "convert", path, "b.jsonl", "data.train=pairs.jsonl").code == 0
    assert (tmp_path / "a.jsonl").read_text() == (tmp_path / "b.jsonl").read_text()
    refused = ftune("data", "convert", path, "data.train=pairs.jsonl")
    assert (refused.code, "give one file to write" in refused.err) == (2, True)
    assert ftune("data", "convert", path, "a.jsonl", "b.jsonl").code == 2
