"""The prompts of `ftune ppo`: from rows of every kind to what the policy is asked."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ftune.core.errors import DataError
from ftune.core.say import Say
from ftune.data.example import Conversation, PromptCompletion
from ftune.data.template import choose_template
from ftune.recipes.ppo_sections import Prompts
from ftune.recipes.runs.prompts import PromptSet, load_prompts, tell_prompts
from ftune.recipes.runs.rows import TextModel
from tests.conftest import chat_rows, write_rows

Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def text(tiny_model: Path) -> TextModel:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    return TextModel(tokenizer, choose_template(tokenizer, None), len(tokenizer))


@pytest.fixture
def load(tmp_path: Path, text: TextModel) -> Callable[..., tuple[PromptSet, PromptSet]]:
    """The prompts of some rows under a `data` section."""

    def made(rows: Rows, positions: int | None = None, **section: Any) -> tuple[PromptSet, PromptSet]:
        path = write_rows(tmp_path / "rows.jsonl", rows)
        return load_prompts(Prompts.model_validate({"train": str(path), **section}), text, 7, positions)

    return made


Load = Callable[..., tuple[PromptSet, PromptSet]]

ASKED = "<|im_start|>user\nName a cat.<|im_end|>\n<|im_start|>assistant\n"
USER = {"role": "user", "content": "Name a cat."}
ANSWER = {"role": "assistant", "content": "Tom."}

LAYOUTS: dict[str, tuple[dict[str, Any], str | None]] = {
    "a chat that ends with its answer": ({"messages": [USER, ANSWER]}, "Tom."),
    "an instruction": ({"instruction": "Name a cat.", "output": "Tom."}, "Tom."),
    "a preference": ({"prompt": "Name a cat.", "chosen": "Tom.", "rejected": "Rex."}, "Tom."),
    "a preference of chats": ({"chosen": [USER, ANSWER], "rejected": [USER, {**ANSWER, "content": "Rex."}]}, "Tom."),
    "a prompt alone": ({"prompt": "Name a cat."}, None),
    "a prompt of turns": ({"prompt": [USER]}, None),
    "a question with columns for rewards": ({"question": "Name a cat.", "level": 3, "topic": "pets"}, None),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_what_comes_before_the_answer_is_asked(load: Load, text: TextModel, name: str) -> None:
    row, reference = LAYOUTS[name]
    train, held_out = load([row] * 3)
    assert held_out.prompts == []
    for line, prompt in enumerate(train.prompts, 1):
        assert text.tokenizer.decode(prompt.ids) == ASKED
        assert prompt.text == "Name a cat."
        assert prompt.reference == reference
        assert prompt.columns == row
        assert prompt.origin.endswith(f"rows.jsonl:{line}")
        assert isinstance(prompt.example, Conversation)
        answered = prompt.answered("Felix.")
        assert isinstance(answered, Conversation)
        assert [(turn.role, turn.content) for turn in answered.messages] == [
            ("user", "Name a cat."), ("assistant", "Felix."),
        ]  # fmt: skip


@pytest.mark.parametrize("key", ["messages", "prompt"])
def test_a_chat_that_ends_with_the_user_is_asked_as_it_is(load: Load, text: TextModel, key: str) -> None:
    turns = [{"role": "system", "content": "Be brief."}, USER, ANSWER, {"role": "user", "content": "And a dog?"}]
    prompt = load([{key: turns}])[0].prompts[0]
    decoded = text.tokenizer.decode(prompt.ids)
    assert decoded.startswith("<|im_start|>system\nBe brief.<|im_end|>\n")
    assert decoded.endswith("<|im_start|>user\nAnd a dog?<|im_end|>\n<|im_start|>assistant\n")
    assert (prompt.text, prompt.reference) == ("And a dog?", None)


@pytest.mark.parametrize(
    ("row", "section", "asked", "reference"),
    [
        ({"prompt": "The cat", "completion": " sat"}, {}, "The cat", " sat"),
        ({"text": "The cat sat"}, {}, "The cat sat", None),
        ({"prompt": "The cat"}, {"format": {"type": "prompt", "raw": True}}, "The cat", None),
    ],
    ids=["prompt and completion", "text", "raw"],
)
def test_texts_are_gone_on_with_and_get_no_template(
    load: Load, text: TextModel, row: dict[str, Any], section: dict[str, Any], asked: str, reference: str | None
) -> None:
    prompt = load([row] * 2, **section)[0].prompts[0]
    assert text.tokenizer.decode(prompt.ids) == asked
    assert prompt.reference == reference
    assert prompt.answered(" slept") == PromptCompletion(asked, " slept")


def test_a_task_around_a_column(load: Load, text: TextModel) -> None:
    """A dialogue to be summed up, as in DialogSum: the row has no prompt of its own."""
    row = {"id": "1", "dialogue": "A: Hi. B: Hi.", "summary": "They greet.", "topic": "greeting"}
    train, _ = load([row] * 2)
    assert "A: Hi. B: Hi." in text.tokenizer.decode(train.prompts[0].ids)
    assert "task" in train.understood_as[0]
    assert train.prompts[0].reference == "They greet."
    assert train.prompts[0].columns["topic"] == "greeting"


# -- what is left out --------------------------------------------------------------------------------------------------


def test_long_prompts_are_dropped_and_counted(load: Load, capsys: pytest.CaptureFixture[str]) -> None:
    rows: Rows = [{"prompt": "cat"}, {"prompt": "cat " * 99}, {"prompt": "mat"}]
    train, held_out = load(rows, max_length=64)
    assert [prompt.text for prompt in train.prompts] == ["cat", "mat"]
    assert dict(train.dropped) == {"too long": 1}
    assert (train.read, train.described()["prompts"]) == (3, 2)
    tell_prompts(train, held_out, Say())
    told = capsys.readouterr().err
    assert "3 rows read, 2 prompts" in told
    assert "1 dropped: too long" in told
    assert "33% of the rows were dropped" in told


def test_dropped_held_out_prompts_are_told_too(load: Load, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = write_rows(tmp_path / "held.jsonl", [{"prompt": "cat"}, {"prompt": "cat " * 99}])
    tell_prompts(*load([{"prompt": "mat"}], validation=str(own), max_length=64), Say())
    assert "1 dropped: too long" in capsys.readouterr().err


def test_long_prompts_are_named_where_the_recipe_wants_it(load: Load) -> None:
    rows: Rows = [{"prompt": "cat"}, {"prompt": "cat " * 99}]
    with pytest.raises(DataError, match=r"rows\.jsonl:2: .*data\.max_length is 64.*on_long_row: drop"):
        load(rows, max_length=64, on_long_row="error")
    with pytest.raises(DataError, match=r"rows\.jsonl:2: .*the model has room for 50 before an answer of .*;"):
        load(rows, positions=50, max_length=64, on_long_row="error")


def test_what_the_model_cannot_read_is_too_long_whatever_the_recipe_says(load: Load) -> None:
    train, _ = load([{"prompt": "cat"}, {"prompt": "cat " * 99}], positions=50)
    assert [prompt.text for prompt in train.prompts] == ["cat"]


def test_no_prompt_left_is_an_error(load: Load) -> None:
    with pytest.raises(DataError, match=r"all 2 rows were dropped \(2 too long\)"):
        load([{"prompt": "cat " * 99}] * 2, max_length=8)
    with pytest.raises(
        DataError, match=r": data\.max_length is 8, and the shortest .* tokens \(.*rows\.jsonl:2\); raise"
    ):
        load([{"prompt": "cat " * 99}, {"prompt": "cat " * 98}], max_length=8)
    with pytest.raises(DataError, match=r"the only row was dropped \(1 too long\)"):
        load([{"prompt": "cat " * 99}], max_length=8)
    with pytest.raises(DataError, match=r"the model has room for 8 .* lower 'rollout\.max_new_tokens'"):
        load([{"prompt": "cat " * 99}], positions=8)
    with pytest.raises(DataError, match=r"rows\.jsonl"):
        load([])


def test_bad_rows_are_named_or_dropped(load: Load) -> None:
    rows: Rows = [{"prompt": "cat"}, {"prompt": 3}, {"prompt": "mat"}, {"other": "x"}]
    with pytest.raises(DataError, match=r"rows\.jsonl:2: ") as bad:
        load(rows)
    assert "rows.jsonl:4: " in str(bad.value)
    train, _ = load(rows, on_bad_row="drop")
    assert [prompt.text for prompt in train.prompts] == ["cat", "mat"]
    assert sum(train.dropped.values()) == 2


@pytest.mark.parametrize("row", [{"prompt": ""}, {"messages": [USER, ANSWER, {"role": "user", "content": ""}]}])
def test_an_empty_question_is_a_bad_row(load: Load, row: dict[str, Any]) -> None:
    good = {key: [USER] if key == "messages" else "cat" for key in row}
    with pytest.raises(DataError, match=r"rows\.jsonl:2: .*empty"):
        load([good, row])
    train, _ = load([good, row, good], on_bad_row="drop")
    assert len(train.prompts) == 2
    assert sum(train.dropped.values()) == 1


def test_an_answer_without_a_question_is_a_bad_row(load: Load) -> None:
    rows: Rows = [{"messages": [USER, ANSWER]}, {"messages": [ANSWER]}]
    with pytest.raises(DataError, match=r"rows\.jsonl:2: "):
        load(rows)


def test_many_faults_are_not_all_told(load: Load) -> None:
    rows: Rows = [{"prompt": "cat"}, *[{"prompt": 3}] * 50]
    with pytest.raises(DataError, match=r"stopped after \d+ faulty rows"):
        load(rows)


# -- held-out prompts --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("validation", "count"), [(5, 5), (0.25, 6)])
def test_prompts_are_held_out_by_number_and_by_share(load: Load, validation: float, count: int) -> None:
    rows = chat_rows(24)
    train, held_out = load(rows, validation=validation)
    assert len(held_out.prompts) == count
    origins = [prompt.origin for prompt in [*train.prompts, *held_out.prompts]]
    assert len(set(origins)) == len(origins) == 24
    again, _ = load(rows, validation=validation)
    assert [prompt.origin for prompt in again.prompts] == [prompt.origin for prompt in train.prompts]


def test_equal_prompts_are_not_torn_apart(load: Load) -> None:
    train, held_out = load([{"prompt": f"cat {number % 8}"} for number in range(24)], validation=6)
    assert held_out.prompts
    assert not {prompt.text for prompt in train.prompts} & {prompt.text for prompt in held_out.prompts}


def test_groups_are_held_out_together(load: Load) -> None:
    rows: Rows = [{"prompt": f"cat {number}", "author": f"a{number % 4}"} for number in range(24)]
    train, held_out = load(rows, validation={"count": 6, "group": "author"})
    authors = [{str(prompt.columns["author"]) for prompt in part.prompts} for part in (train, held_out)]
    assert held_out.prompts
    assert not authors[0] & authors[1]
    with pytest.raises(DataError, match=r"rows\.jsonl:1: there is no column 'writer'"):
        load(rows, validation={"count": 6, "group": "writer"})


def test_held_out_prompts_of_their_own(load: Load, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = write_rows(tmp_path / "held.jsonl", [{"prompt": "cat"}, {"prompt": "unseen"}])
    train, held_out = load([{"prompt": "cat"}, {"prompt": "mat"}], validation=str(own))
    assert [prompt.text for prompt in held_out.prompts] == ["cat", "unseen"]
    assert len(train.prompts) == 2
    tell_prompts(train, held_out, Say())
    assert "1 held-out prompts are also training prompts" in " ".join(capsys.readouterr().err.split())


def test_nothing_to_train_on_after_holding_out_is_an_error(load: Load) -> None:
    with pytest.raises(DataError, match=r"data\.validation: "):
        load([{"prompt": "cat"}, {"prompt": "mat"}], validation=2)


def test_several_sources_with_formats_of_their_own(load: Load, tmp_path: Path, text: TextModel) -> None:
    own = write_rows(tmp_path / "texts.jsonl", [{"prompt": "The cat"}])
    sources = [{"path": str(own), "format": {"type": "prompt", "raw": True}}, {"path": str(tmp_path / "rows.jsonl")}]
    train, _ = load([{"prompt": "Name a cat."}] * 2, train=sources)
    assert [text.tokenizer.decode(prompt.ids) for prompt in train.prompts] == ["The cat", ASKED, ASKED]
    assert len(train.understood_as) == 2


def test_other_prompts_have_another_fingerprint(load: Load) -> None:
    one, same, other = (load([{"prompt": word}])[0].fingerprint for word in ("cat", "cat", "mat"))
    assert one == same != other


def test_columns_of_some_rows_are_none_in_the_others(load: Load, tmp_path: Path) -> None:
    own = write_rows(tmp_path / "held.jsonl", [{"prompt": "mat", "level": 3}])
    train, held_out = load([{"prompt": "cat", "topic": "pets"}, {"prompt": "hat"}], validation=str(own))
    assert [dict(prompt.columns) for prompt in (*train.prompts, *held_out.prompts)] == [
        {"prompt": "cat", "topic": "pets", "level": None},
        {"prompt": "hat", "topic": None, "level": None},
        {"prompt": "mat", "topic": None, "level": 3},
    ]


def test_tokens_that_the_model_does_not_know_are_told(tmp_path: Path, text: TextModel) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [{"prompt": "cat"}])
    largest = max(text.tokenizer("<|im_start|>user")["input_ids"])
    smaller = TextModel(text.tokenizer, text.template, largest)
    with pytest.raises(DataError, match=rf"rows\.jsonl:1: the prompt has the token .* \(its vocabulary has {largest}"):
        load_prompts(Prompts.model_validate({"train": str(path)}), smaller, 7, None)
