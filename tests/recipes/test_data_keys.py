"""Every key of the data section does something: one case a key."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ftune.recipes.load import load_recipe
from ftune.recipes.runs.rows import TextModel, load_rows
from ftune.recipes.sft import SftRecipe
from tests.conftest import chat_rows, write_rows

ODD = [
    {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
    {"messages": [{"role": "user", "content": "no answer"}]},
    {"messages": [{"role": "user", "content": "long"}, {"role": "assistant", "content": "long " * 200}]},
    {
        "messages": [
            {"role": "user", "content": "one"},
            {"role": "assistant", "content": "first"},
            {"role": "user", "content": "two"},
            {"role": "assistant", "content": "second"},
        ]
    },
]


@pytest.fixture
def load(recipe: Callable[..., Path], tmp_path: Path, tiny_model: Path) -> Callable[..., Any]:
    """Loads the rows of a recipe whose data section is given."""
    (tmp_path / "odd.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ODD))
    (tmp_path / "qa.jsonl").write_text("".join(json.dumps({"q": f"{n}?", "a": f"{n}!"}) + "\n" for n in range(9)))

    def call(seed: int = 1, **data: object) -> Any:
        from transformers import AutoTokenizer

        loaded = load_recipe("sft", recipe(data=data)).recipe
        assert isinstance(loaded, SftRecipe)
        tokenizer = AutoTokenizer.from_pretrained(tiny_model)
        text = TextModel(tokenizer, loaded.model.template(tokenizer), len(tokenizer))
        return load_rows(loaded.data, text, loaded.data.rules(None), seed=seed)

    return call


def test_data_train_path_rows_weight_columns_and_lists(load: Callable[..., Any]) -> None:
    assert load(train="rows.jsonl")[0].counts.kept == 24
    assert load(train={"path": "rows.jsonl", "rows": 5})[0].counts.kept == 5
    assert load(train={"path": "rows.jsonl", "weight": 2.5})[0].counts.kept == 60
    columns = {"prompt": "q", "completion": "a"}
    both = load(train=[{"path": "qa.jsonl", "columns": columns}, "rows.jsonl"])[0]
    assert both.counts.kept == 33
    assert both.format == "prompt_completion, messages"


def test_data_train_of_the_hub(monkeypatch: pytest.MonkeyPatch, load: Callable[..., Any]) -> None:
    asked: dict[str, object] = {}

    def read_rows(path: str, **how: object) -> Iterator[object]:
        from ftune.data.row import Row

        asked.update(path=path, **how)
        yield Row(ODD[0], path, 1)

    identified: dict[str, object] = {}

    def source_fingerprint(path: str, **how: object) -> str:
        identified.update(path=path, **how)
        return "bytes"

    monkeypatch.setattr("ftune.data.source.read_rows", read_rows)
    monkeypatch.setattr("ftune.data.fingerprint.source_fingerprint", source_fingerprint)
    load(train={"path": "org/set", "name": "main", "split": "test", "revision": "abc"})
    wanted = {"path": "org/set", "name": "main", "split": "test", "revision": "abc"}
    assert wanted.items() <= identified.items()
    assert wanted.items() <= asked.items()


@pytest.mark.parametrize(
    ("validation", "train", "held_out"),
    [(0.25, 18, 6), (4, 20, 4), ({"fraction": 0.5}, 12, 12), ({"count": 3}, 21, 3), ("qa2.jsonl", 24, 2)],
)
def test_data_validation(
    load: Callable[..., Any], tmp_path: Path, validation: object, train: int, held_out: int
) -> None:
    (tmp_path / "qa2.jsonl").write_text("".join(json.dumps(row) + "\n" for row in (ODD[0], ODD[3])))
    prepared, out = load(train="rows.jsonl", validation=validation)
    assert (prepared.counts.kept, out.counts.kept) == (train, held_out)


def test_data_format_forces_a_layout(load: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "both.jsonl").write_text(json.dumps({"text": "plain", "prompt": "p", "completion": "c"}) + "\n")
    assert load(train="both.jsonl", format="text")[0].format == "text"
    assert load(train="both.jsonl", format={"type": "prompt_completion"})[0].format == "prompt_completion"


def test_data_mask(load: Callable[..., Any]) -> None:
    trained = {
        mask: load(train="odd.jsonl", mask=mask, on_bad_row="drop", max_length=1000)[0].counts.trained_tokens
        for mask in ("assistant", "last", "completion", "all")
    }
    assert trained["last"] < trained["assistant"] < trained["all"]
    assert trained["completion"] == trained["last"]


def test_data_on_bad_row_and_on_long_row_and_max_length(load: Callable[..., Any]) -> None:
    from ftune.core.errors import DataError

    with pytest.raises(DataError, match=r"odd.jsonl:2: nothing to train on"):
        load(train="odd.jsonl", max_length=2000)
    assert load(train="odd.jsonl", max_length=2000, on_bad_row="drop")[0].counts.kept == 3
    assert load(train="odd.jsonl", max_length=64, on_bad_row="drop")[0].counts.kept == 2
    cut = load(train="odd.jsonl", max_length=64, on_bad_row="drop", on_long_row="truncate")[0]
    assert (cut.counts.kept, cut.counts.truncated_stop_tokens, cut.lengths.max()) == (3, 1, 64)
    with pytest.raises(DataError, match=r"odd.jsonl:3: .* max_length is 64"):
        load(train="odd.jsonl", max_length=64, on_bad_row="drop", on_long_row="error")


def test_data_num_proc_changes_processes_and_not_the_result(
    load: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import multiprocessing

    write_rows(tmp_path / "many.jsonl", chat_rows(2500))
    started = []
    honest = multiprocessing.context.ForkContext.Pool
    monkeypatch.setattr(
        "multiprocessing.context.ForkContext.Pool",
        lambda self, number, *rest: started.append(number) or honest(self, number, *rest),
    )
    alone = load(train="many.jsonl", num_proc=1)[0]
    monkeypatch.setenv("FTUNE_CACHE", str(tmp_path / "another"))
    several = load(train="many.jsonl", num_proc=2)[0]
    assert started == [2]
    assert several.fingerprint == alone.fingerprint
    assert list(several.origins) == list(alone.origins)


def test_duplicates_in_two_sources_are_never_on_both_sides(load: Callable[..., Any], tmp_path: Path) -> None:
    shutil.copyfile(tmp_path / "rows.jsonl", tmp_path / "again.jsonl")
    train, held_out = load(train=["rows.jsonl", "again.jsonl"], validation=8)
    sides = [{tuple(side.ids(row)) for row in range(len(side))} for side in (train, held_out)]
    assert sides[0] & sides[1] == set()
    assert (train.counts.kept, held_out.counts.kept) == (40, 8)


def test_data_validation_group_keeps_rows_together(load: Callable[..., Any], tmp_path: Path) -> None:
    rows = [{"text": f"row {number}", "user": number % 4} for number in range(20)]
    write_rows(tmp_path / "users.jsonl", rows)
    train, held_out = load(train="users.jsonl", validation={"fraction": 0.3, "group": "user"})
    users = [
        {rows[int(origin.rpartition(":")[2]) - 1]["user"] for origin in side.origins} for side in (train, held_out)
    ]
    assert len(held_out) == 5
    assert users[0] & users[1] == set()


def test_rows_that_are_shown_as_exemplars_are_not_held_out(
    load: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ftune.recipes.runs.rows.FIRST", 6)
    rows = [{"premise": f"a{n}", "hypothesis": f"b{n}", "label": ["entailment", "neutral"][n % 2]} for n in range(20)]
    write_rows(tmp_path / "nli.jsonl", rows)
    for seed in range(5):
        task = {"type": "task", "templates": "nli", "shots": [0, 1]}
        _, held_out = load(train="nli.jsonl", format=task, validation=4, max_length=600, seed=seed)
        assert held_out.numbers.min() >= 6


def test_data_train_encoding_documents_and_columns_of_a_table_without_header(
    load: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "latin.jsonl").write_bytes('{"text": "caf\xe9 caf\xe9"}\n'.encode("latin-1"))
    read = load(train={"path": "latin.jsonl", "encoding": "latin-1"})[0]
    (tmp_path / "utf8.jsonl").write_text('{"text": "caf\xe9 caf\xe9"}\n', encoding="utf-8")
    assert read.ids(0) == load(train="utf8.jsonl")[0].ids(0)
    (tmp_path / "book.txt").write_text("the cat\nsat\n\non a mat\n")
    documents = {name: len(load(train={"path": "book.txt", "documents": name})[0]) for name in ("file", "line")}
    documents["blank_line"] = len(load(train={"path": "book.txt", "documents": "blank_line"})[0])
    assert documents == {"file": 1, "blank_line": 2, "line": 3}
    (tmp_path / "bare.tsv").write_text("the cat sat\t1\nnine birds\t0\n")
    bare = load(train={"path": "bare.tsv", "columns": ["prompt", "completion"]})[0]
    assert (bare.format, len(bare)) == ("prompt_completion", 2)


def test_data_train_format_is_that_of_one_source(load: Callable[..., Any], tmp_path: Path) -> None:
    write_rows(tmp_path / "both.jsonl", [{"text": "plain", "prompt": "p", "completion": "c"}])
    sources = [{"path": "both.jsonl", "format": "text"}, "both.jsonl"]
    assert load(train=sources)[0].format == "text, prompt_completion"
    assert load(train=sources, format="text")[0].format == "text"


@pytest.mark.parametrize(
    ("mix", "sizes"),
    [
        ("concatenate", [24, 9]),
        ({"type": "proportional", "cap": 10}, [10, 9]),
        ({"type": "proportional", "cap": 24, "temperature": 1e9}, [17, 16]),
        ({"type": "interleave", "stop": "first"}, None),
        ({"type": "interleave", "stop": "all"}, None),
    ],
)
def test_data_mix(load: Callable[..., Any], mix: object, sizes: list[int] | None) -> None:
    columns = {"prompt": "q", "completion": "a"}
    train = load(train=["rows.jsonl", {"path": "qa.jsonl", "columns": columns}], mix=mix)[0]
    found = [int((train.which == part).sum()) for part in (0, 1)]
    if sizes is not None:
        assert found == sizes
    else:
        first = isinstance(mix, dict) and mix["stop"] == "first"
        assert (found[0] < 24 and found[1] == 9) if first else (found[0] >= 24 and found[1] >= 9)


def test_data_on_preference(load: Callable[..., Any], tmp_path: Path) -> None:
    from ftune.core.errors import DataError

    write_rows(tmp_path / "pairs.jsonl", [{"prompt": "the cat ", "chosen": "sat", "rejected": "saw"}])
    with pytest.raises(DataError, match="on_preference: chosen"):
        load(train="pairs.jsonl")
    assert load(train="pairs.jsonl", on_preference="chosen")[0].counts.kept == 1


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"streaming": True, "validation": 4}, "a stream cannot be split"),
        ({"streaming": True, "mix": "proportional"}, "'proportional' needs to know how many rows"),
        ({"streaming": True, "num_proc": 2}, "tokenised where it is trained on"),
        ({"streaming": {"shuffle_buffer": 0}}, "shuffle_buffer"),
        ({"validation": {"source": "rows.jsonl", "group": "a"}}, "'group' splits the training rows"),
    ],
)
def test_what_cannot_go_together_is_refused(recipe: Callable[..., Path], data: dict[str, Any], message: str) -> None:
    from ftune.core.errors import RecipeError

    with pytest.raises(RecipeError, match=message):
        load_recipe("sft", recipe(data={"train": "rows.jsonl", **data}))


def test_a_stream_needs_a_number_of_steps(recipe: Callable[..., Path]) -> None:
    from ftune.core.errors import RecipeError

    data = {"train": "rows.jsonl", "streaming": True}
    with pytest.raises(RecipeError, match=r"schedule.max_steps: a stream has no known end"):
        load_recipe("sft", recipe(data=data, schedule={"epochs": 1.0}))
    assert load_recipe("sft", recipe(data=data))


CHANGES: list[dict[str, Any]] = [
    {"max_length": 90},
    {"mask": "all"},
    {"on_bad_row": "drop"},
    {"on_long_row": "truncate"},
    {"on_preference": "chosen"},
    {"format": "messages"},
    {"train": {"path": "rows.jsonl", "columns": {"messages": "messages"}}},
    {"train": {"path": "rows.jsonl", "rows": 5}},
    {"train": {"path": "rows.jsonl", "encoding": "utf-8"}},
    {"train": "again.jsonl"},
]


def entries(cache: Path) -> int:
    return len(list((cache / "data").glob("*/rows")))


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: next(iter(change)))
def test_a_cache_entry_is_of_everything_that_can_change_the_rows(
    load: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    monkeypatch.setenv("FTUNE_CACHE", str(tmp_path / "cache"))
    shutil.copyfile(tmp_path / "rows.jsonl", tmp_path / "again.jsonl")
    data = {"train": "rows.jsonl", "max_length": 120}
    load(**data)
    load(**data)
    assert entries(tmp_path / "cache") == 1
    load(**{**data, **change})
    assert entries(tmp_path / "cache") == 2


def test_other_bytes_are_another_cache_entry(
    load: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FTUNE_CACHE", str(tmp_path / "cache"))
    before = load(train="rows.jsonl")[0]
    status = (tmp_path / "rows.jsonl").stat()
    text = (tmp_path / "rows.jsonl").read_text()
    (tmp_path / "rows.jsonl").write_text(text.replace("cat", "mat", 1))
    os.utime(tmp_path / "rows.jsonl", ns=(status.st_atime_ns, status.st_mtime_ns))  # same size, same time
    after = load(train="rows.jsonl")[0]
    assert entries(tmp_path / "cache") == 2
    assert after.fingerprint != before.fingerprint


@pytest.mark.parametrize(
    ("data", "made"),
    [
        ({"train": "rows.jsonl"}, 1),
        ({"train": {"path": "rows.jsonl", "rows": 5}}, 2),
        ({"train": "nli.jsonl", "format": {"type": "task", "templates": "nli"}}, 2),
        ({"train": {"path": "nli.jsonl", "format": {"type": "task", "templates": "nli"}}}, 2),
    ],
)
def test_a_seed_makes_a_new_entry_where_rows_are_drawn(
    load: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: dict[str, Any], made: int
) -> None:
    monkeypatch.setenv("FTUNE_CACHE", str(tmp_path / "cache"))
    labels = ["entailment", "neutral", "contradiction"]
    write_rows(tmp_path / "nli.jsonl", [{"premise": "a", "hypothesis": "b", "label": label} for label in labels])
    for seed in (1, 2):
        load(**data, max_length=200, seed=seed)
    assert entries(tmp_path / "cache") == made


def test_a_split_or_a_weight_makes_no_new_cache_entry(
    load: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FTUNE_CACHE", str(tmp_path / "cache"))
    for data in (
        {},
        {"validation": 4},
        {"num_proc": 2},
        {"packing": True},
        {"train": {"path": "rows.jsonl", "weight": 2.0}},
    ):
        load(**{"train": "rows.jsonl", **data})
    assert entries(tmp_path / "cache") == 1
