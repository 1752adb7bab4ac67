"""`batch.activation_checkpointing: selective`: a run learns the same with it, and what cannot be is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ftune.core.errors import RecipeError
from ftune.recipes.load import load_recipe
from ftune.recipes.sft import SftRecipe
from ftune.report.events import read_events
from tests.conftest import Done, chat_rows, write_rows
from tests.trainers.test_rm import CLASSIFIER, pairs, texts

SELECTIVE = "batch.activation_checkpointing=selective"

COMMANDS: dict[str, dict[str, Any]] = {
    "sft": {},
    "sft, padded": {"speed": {"packed_attention": "off", "fused_loss": "off"}},
    "sft, full": {"peft": "full"},
    "sft, dropout": {"peft": {"type": "lora", "rank": 4, "dropout": 0.2}},
    "rm": {"type": "rm", "data": {"train": "pairs.jsonl", "max_length": 128}},
    "rm, classifier": {"type": "rm", **CLASSIFIER},
}
SELDOM = {"sft, padded", "sft, dropout", "rm, classifier"}
"""Their layers are those of the others."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in SELDOM else []) for name in COMMANDS]
)
def test_a_run_learns_the_same(
    name: str, recipe: Callable[..., Path], ftune: Callable[..., Done], tmp_path: Path
) -> None:
    write_rows(tmp_path / "pairs.jsonl", pairs(24))
    write_rows(tmp_path / "texts.jsonl", texts(24))
    write_rows(tmp_path / "rows.jsonl", chat_rows(24))
    path = recipe(**{"schedule": {"max_steps": 3}, "checkpoint": {"every": "never"}, **COMMANDS[name]})
    losses = []
    for folder, *overrides in (("before",), ("after", SELECTIVE)):
        done = ftune(name.partition(",")[0], path, f"output_dir={folder}", *overrides)
        assert done.code == 0, done.err
        events = read_events(tmp_path / folder / "events.jsonl")
        losses.append([event["loss"] for event in events if event["kind"] == "step"])
    assert len(losses[0]) == 3
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_the_words_of_a_batch(recipe: Callable[..., Path]) -> None:
    path = recipe()
    values = {"false": (False, False), "true": (True, True), "selective": (False, "selective"), "auto": (False, False)}
    for value, (recomputes, checkpointing) in values.items():
        found = load_recipe("sft", path, [f"batch.activation_checkpointing={value}"]).recipe
        assert isinstance(found, SftRecipe)
        assert (found.batch.recomputes, found.batch.checkpointing) == (recomputes, checkpointing)
        assert found.training_args()["gradient_checkpointing"] is recomputes


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "scores": ({"model": {"path": "m", "attention": "eager"}}, r"'model\.attention: eager' is several; set it to true"),
    "int8": ({"model": {"path": "m", "quantization": "int8"}}, "those of 'int8' are others; set it to true"),
    "parts": ({"backend": "fsdp"}, "'backend: fsdp' has them in parts; set it to true"),
    "flat pieces": ({"backend": {"type": "zero", "stage": 1}}, "'backend: zero' has them in parts; set it to true"),
    "a method": ({"peft": "prefix"}, "transformers 5 drops the cache that holds the prefix"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_refused_at_its_place(name: str, recipe: Callable[..., Path]) -> None:
    sections, message = REFUSED[name]
    with pytest.raises(RecipeError, match=rf"batch\.activation_checkpointing: .*{message}"):
        load_recipe("sft", recipe(**sections), [SELECTIVE])
