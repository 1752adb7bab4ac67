"""Resumed from a checkpoint, every PEFT method ends in the very weights of a run that never stopped."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from ftune.core.say import Say
from ftune.peft.base import Material
from ftune.recipes.load import load_recipe
from ftune.recipes.runs.inputs import Inputs, load_inputs
from ftune.recipes.sft import SftRecipe
from ftune.report.events import EventLog
from ftune.trainers.feed import PreparedDataset
from ftune.trainers.method import Method
from ftune.trainers.sft import train_sft
from ftune.trainers.training import Around
from tests.conftest import chat_rows, write_rows
from tests.contract.cases import method
from tests.contract.test_peft import PLAIN, rarely

STEPS = 3


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> tuple[SftRecipe, Inputs]:
    folder = tmp_path_factory.mktemp("resume")
    rows = write_rows(folder / "rows.jsonl", chat_rows(8))
    settings = {"type": "sft", "model": {"path": str(tiny_model)}, "data": {"train": str(rows)}}
    settings |= {"optim": {"learning_rate": 0.003, "weight_decay": 0.1}, "schedule": {"max_steps": STEPS}}
    settings |= {"batch": {"micro_batch_size": 2, "gradient_accumulation_steps": 2}, "checkpoint": {"every": 2}}
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(settings))
    recipe: Any = load_recipe("sft", path).recipe
    return recipe, load_inputs(recipe, Say())


def weights(
    case: str, loaded: tuple[SftRecipe, Inputs], folder: Path, checkpoint: Path | None
) -> dict[str, torch.Tensor]:
    """Trained parameters and what the hook remembers, at the end."""
    recipe, inputs = loaded
    torch.manual_seed(recipe.seed)
    found = method(case)
    rows = [inputs.train.ids(index) for index in range(8)]
    model: Any = found.wrap(
        recipe.model.load(inputs.located, "fp32", "cpu"), Material(inputs.tokenizer, inputs.located, rows)
    )
    hook = found.hook(model)
    train_sft(
        model,
        inputs.tokenizer,
        PreparedDataset(inputs.train, None),
        None,
        Around(
            args={**recipe.training_args(), "output_dir": str(folder), "bf16": False},
            events=EventLog(folder / "events.jsonl"),
            facts={},
            say=Say(),
            method=Method(found.library == "peft", hook, found.learning_rate_factor),
            checkpoint=checkpoint,
        ),
        packed=False,
    )
    trained = {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}
    return trained | (hook.state() if hook else {})


@pytest.mark.parametrize("case", rarely(PLAIN))
def test_a_resumed_run_ends_in_the_same_weights(case: str, loaded: tuple[SftRecipe, Inputs], tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    whole = weights(case, loaded, tmp_path / "run", None)
    resumed = weights(case, loaded, tmp_path / "run", tmp_path / "run" / "checkpoint-2")
    assert whole.keys() == resumed.keys()
    assert [name for name, value in whole.items() if not torch.equal(value, resumed[name])] == []
