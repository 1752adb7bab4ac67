"""A tiny real model on disk, rows for it, and the program as a function."""

import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import pytest
import yaml

hypothesis.settings.register_profile("ftune", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("ftune")

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")
os.environ["HF_HUB_OFFLINE"] = "1"

gc.disable()  # until all tests are collected: what is imported for them stays


def pytest_collection_finish() -> None:
    """Nothing of what is there now is ever garbage: looking through it takes a second, several times in each run."""
    gc.freeze()
    gc.enable()


WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "saw", "nine", "small", "birds", "fly", "over", "red", "roofs"]


@dataclass(frozen=True)
class Done:
    """How a run of the program ended."""

    code: int
    out: str
    err: str


def chat_rows(count: int, start: int = 0) -> list[dict[str, object]]:
    """Conversations of different lengths that a model can learn something from."""
    rows: list[dict[str, object]] = []
    for number in range(start, start + count):
        first, length = number % len(WORDS), 2 + number % 7
        words = [WORDS[(first + place) % len(WORDS)] for place in range(length)]
        turns = [
            {"role": "user", "content": f"{number}: {' '.join(words)}"},
            {"role": "assistant", "content": " ".join(reversed(words))},
        ]
        rows.append({"messages": turns})
    return rows


def write_rows(path: Path, rows: list[dict[str, object]]) -> Path:
    """Rows as JSON Lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of two layers with a byte-level tokenizer and a ChatML template."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny") / "model"
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        [" ".join(WORDS)] * 8, trainers.BpeTrainer(vocab_size=320, special_tokens=special, initial_alphabet=alphabet)
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.chat_template = (
        "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] "
        "+ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.2,  # a head with contrast: an adapter on frozen layers can lower the loss
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def own_data_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """What tests prepare stays among their files."""
    monkeypatch.setenv("FTUNE_CACHE", str(tmp_path_factory.getbasetemp() / "ftune-cache"))


@pytest.fixture
def recipe(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Writes a recipe of the tiny model into the test's folder, which is the working folder too."""
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "rows.jsonl", chat_rows(24))

    def write(name: str = "tiny.yaml", **sections: object) -> Path:
        base: dict[str, object] = {
            "type": "sft",
            "model": {"path": str(tiny_model)},
            "data": {"train": "rows.jsonl", "max_length": 128},
            "peft": {"type": "lora", "rank": 4},
            "schedule": {"max_steps": 6},
            "batch": {"micro_batch_size": 2},
            "checkpoint": {"every": 2},
            "optim": {"learning_rate": 0.005},
        }
        path = tmp_path / name
        path.write_text(yaml.safe_dump(base | sections), encoding="utf-8")
        return path

    return write


@pytest.fixture
def ftune(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """The program in this process: `ftune("sft", path)` gives exit code and output."""

    def call(*words: object) -> Done:
        from ftune.cli.main import main

        monkeypatch.setattr(sys, "argv", ["ftune", *map(str, words)])
        capfd.readouterr()
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        out, err = capfd.readouterr()
        return Done(code, out, err)

    return call


def spawn(*words: object, cwd: Path | None = None, **variables: str) -> "subprocess.Popen[str]":
    """The program as a process of its own."""
    command = [sys.executable, "-m", "ftune", *map(str, words)]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, text=True, cwd=cwd, env={**os.environ, **variables}, **streams)  # type: ignore[call-overload,no-any-return]
