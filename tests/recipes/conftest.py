"""A run to evaluate; a run, adapters and a fully tuned model to chat with."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ftune.core.say import Say
from ftune.models.load import load_tokenizer
from ftune.recipes.runs.chat_model import Opened, open_chat
from ftune.recipes.runs.chat_turns import Chat
from tests.conftest import Done, chat_rows, write_rows
from tests.pair import once
from tests.recipes.chat_models import GREEDY, write_adapter, write_run


@pytest.fixture(scope="session")
def chat_folders(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`polite`, a run with an adapter; `other`, an adapter; `full`, a run with a model."""
    root = tmp_path_factory.mktemp("chat")
    run = write_run(root / "polite", tiny_model)
    load_tokenizer(str(tiny_model)).save_pretrained(write_adapter(tiny_model, run / "adapter", seed=1))
    write_adapter(tiny_model, root / "other", seed=2)
    shutil.copytree(tiny_model, write_run(root / "full", tiny_model) / "model")
    return root


@pytest.fixture(scope="session")
def opened_chat(chat_folders: Path) -> Opened:
    """The run with one more adapter."""
    return open_chat(str(chat_folders / "polite"), [f"other={chat_folders / 'other'}"], None, Say())


@pytest.fixture
def chat(opened_chat: Opened) -> Chat:
    """A new conversation with the run's adapter."""
    opened_chat.switch.use("polite")
    return Chat(opened_chat, GREEDY, Say(), seed=0)


@pytest.fixture
def trained(
    recipe: Callable[..., Path], ftune: Callable[..., Done], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A copy of a run of two steps that held out a quarter of its rows."""

    def train(folder: Path) -> None:
        rows = write_rows(folder / "more.jsonl", chat_rows(16))
        data = {"train": str(rows), "validation": 0.25}
        done = ftune("sft", recipe(data=data, schedule={"max_steps": 2}, output_dir=str(folder / "run")))
        assert done.code == 0, done.err

    recipe()
    made = once(tmp_path_factory, "run-to-evaluate", train) / "run"
    return shutil.copytree(made, tmp_path / "runs/tiny")
