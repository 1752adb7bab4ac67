"""A run, adapters and a fully tuned model to chat with."""

import shutil
from pathlib import Path

import pytest

from ftune.core.say import Say
from ftune.models.load import load_tokenizer
from ftune.recipes.runs.chat_model import Opened, open_chat
from ftune.recipes.runs.chat_turns import Chat
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
