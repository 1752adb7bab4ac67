"""`ftune chat` as a program: what is typed, piped and refused."""

import io
import json
import os
import pty
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ftune.models.load import load_tokenizer
from ftune.recipes.runs.chat_reply import _Written
from ftune.recipes.runs.chat_turns import Chat
from tests.conftest import Done
from tests.recipes.chat_models import by_transformers, quietly, write_run

Ftune = Callable[..., Done]


@pytest.fixture
def piped(ftune: Ftune, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Done]:
    """The program with these lines on its standard input."""

    def call(text: str | bytes, *words: object) -> Done:
        data = text.encode() if isinstance(text, str) else text
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        return ftune("chat", *words)

    return call


def test_piped_lines_are_answered_line_by_line(piped: Callable[..., Done], chat: Chat, chat_folders: Path) -> None:
    words = [chat_folders / "polite", "--greedy", "max_new_tokens=12", "--system", "be kind"]
    chat.system = "be kind"
    expected = []
    for question in ("the cat", "a mat"):
        chat.turns = []
        expected.append(chat.ask(question, quietly))
    done = piped("the cat\n\na mat\n", *words)
    assert done.code == 0
    assert done.out.splitlines() == ["\\n".join(reply.text.splitlines()) for reply in expected]
    rows = [{"prompt": "the cat"}, {"messages": [{"role": "user", "content": "a mat"}]}]
    rows[1]["messages"].append({"role": "assistant", "content": "what was wanted"})  # type: ignore[attr-defined]
    done = piped("".join(json.dumps(row) + "\n" for row in rows), *words, "--json")
    found = [json.loads(line) for line in done.out.splitlines()]
    assert [list(each) for each in found] == [["prompt", "reply", "tokens", "seconds", "stop"]] * 2
    assert [(each["prompt"], each["reply"], each["tokens"], each["stop"]) for each in found] == [
        (question, reply.text, reply.tokens, reply.stop)
        for question, reply in zip(("the cat", "a mat"), expected, strict=True)
    ]
    done = piped("", *words, "--prompt", "a mat")
    assert done.out == expected[1].text + "\n"
    assert "adapters: polite" in done.err
    assert "\x1b" not in done.out + done.err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"prompt": "a"}\nthe cat\n', "<stdin>:2: no JSON object, as the first line is one"),
        ('\n{"promt": "a"}\n', "<stdin>:2: an object with key 'promt', where a 'prompt' or 'messages' are needed"),
        ('{"messages": [{"role": "usr", "content": "a"}]}', "<stdin>:1: messages[0]: the role 'usr' is not known"),
        (b"the \xff cat\n", "<stdin>:1: not UTF-8 (byte 4)"),
        ("7" * 300, "<stdin>:1: the prompt has"),
    ],
)
def test_a_bad_line_is_told_by_its_number(piped: Callable[..., Done], tiny_model: Path, text: str, said: str) -> None:
    done = piped(text, tiny_model, "--greedy", "max_new_tokens=2")
    assert done.code == 2
    assert said in done.err
    assert "Traceback" not in done.err


def test_without_a_template_texts_are_continued(piped: Callable[..., Done], tiny_model: Path, chat: Chat) -> None:
    done = piped('{"prompt": "the cat"}\n', tiny_model, "--plain", "--greedy", "max_new_tokens=12", "--json")
    ids = chat.opened.tokenizer("the cat")["input_ids"]
    assert json.loads(done.out)["reply"] == by_transformers(tiny_model, None, ids, chat.opened.tokenizer)
    done = piped("the cat\n", tiny_model, "--plain", "--system", "be kind")
    assert (done.code, "a system text needs a chat template" in done.err) == (2, True)


def bad_inputs(root: Path, tiny: Path) -> dict[str, tuple[list[object], str]]:
    other = root / "other"
    return {
        "missing": ([root / "nothing"], "no such file or folder"),
        "word": ([tiny, "--adapter", "polite"], "'polite' is no NAME=FOLDER"),
        "off": ([tiny, "--adapter", f"off={other}"], "'off' means the model without an adapter"),
        "whole": ([tiny, "--adapter", f"x={tiny}"], "is a whole model, no adapter"),
        "twice": ([tiny, "--adapter", f"x={other}", "--adapter", f"x={other}"], "there is an adapter 'x' already"),
        "other base": ([root / "wide", "--adapter", f"x={other}"], "other: was trained on another base: "),
        "reward": ([root / "judge"], "scores texts and writes none; see 'ftune eval'"),
        "classifier": ([root / "classifier"], "scores texts and writes none; see 'ftune eval'"),
        "unfinished": ([root / "begun"], "the run there is running, not done"),
        "setting": ([tiny, "temprature=1"], "did you mean 'temperature'"),
        "both": ([tiny, "--greedy", "temperature=1"], "choose one"),
        "no base": ([root / "orphan"], "does not say what it was trained on; name it"),
    }


@pytest.fixture(scope="module")
def crooked(chat_folders: Path, tiny_model: Path) -> Path:
    """What cannot be talked to, beside what can."""
    import shutil

    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(tiny_model, hidden_size=64, head_dim=16)
    load_tokenizer(str(tiny_model)).save_pretrained(chat_folders / "wide")
    AutoModelForCausalLM.from_config(config).save_pretrained(chat_folders / "wide")
    shutil.copytree(tiny_model, write_run(chat_folders / "judge", tiny_model, kind="rm") / "model")
    shutil.copytree(tiny_model, chat_folders / "classifier")
    changed = json.loads((tiny_model / "config.json").read_text()) | {
        "architectures": ["LlamaForSequenceClassification"]
    }
    (chat_folders / "classifier/config.json").write_text(json.dumps(changed))
    write_run(chat_folders / "begun", tiny_model, state="running")
    shutil.copytree(chat_folders / "other", chat_folders / "orphan")
    changed = json.loads((chat_folders / "other/adapter_config.json").read_text()) | {"base_model_name_or_path": None}
    (chat_folders / "orphan/adapter_config.json").write_text(json.dumps(changed))
    return chat_folders


@pytest.mark.parametrize("case", list(bad_inputs(Path(), Path())))
def test_bad_input_is_told_in_a_line(piped: Callable[..., Done], crooked: Path, tiny_model: Path, case: str) -> None:
    words, said = bad_inputs(crooked, tiny_model)[case]
    done = piped("the cat\n", *words)
    assert done.code == 2
    assert done.out == ""
    assert said in done.err.splitlines()[-1]


class Terminal:
    """A pseudo-terminal as this process's own; a thread types, and waits for what it answers to."""

    def __init__(self) -> None:
        self.master, slave = pty.openpty()
        self.said, self.missed = "", ""
        self._kept = [(fd, os.dup(fd)) for fd in range(3)]
        for fd in range(3):
            os.dup2(slave, fd)
        os.close(slave)

    def type(self, *script: tuple[str, ...]) -> None:
        """Text to type, and what must be seen after it, in order; `^C` is a signal, as terminals send it."""
        for text, *awaited in script:
            place = len(self.said)
            if text == "^C":
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            else:
                os.write(self.master, text.encode())
            for words in awaited:
                while (found := self.said.find(words, place)) < 0:
                    if not select.select([self.master], [], [], 20)[0]:
                        self.missed = f"after {text!r}: {words!r}"
                        os.write(self.master, b"\n/quit\n")
                        return
                    self.said += os.read(self.master, 4096).decode(errors="replace")
                place = found + len(words)

    def close(self) -> None:
        """Give the process back what it had."""
        for fd, kept in self._kept:
            os.dup2(kept, fd)
            os.close(kept)
        os.close(self.master)


@contextmanager
def own_terminal() -> Iterator[Terminal]:
    """Inside of a test: pytest has its own streams back between a fixture and the test."""
    found = Terminal()
    with pytest.MonkeyPatch.context() as patch:
        for fd, name in enumerate(("stdin", "stdout", "stderr")):
            patch.setattr(sys, name, open(fd, "w" if fd else "r", closefd=False))  # noqa: SIM115
        try:
            yield found
        finally:
            found.close()


@pytest.mark.slow  # a prompt does not notice signals in pytest's parallel workers
def test_a_chat_at_the_terminal(
    chat_folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    from ftune.cli.main import main

    words = [
        "chat",
        chat_folders / "polite",
        "--adapter",
        f"other={chat_folders / 'other'}",
        "--greedy",
        "max_new_tokens=12",
    ]
    monkeypatch.setattr(sys, "argv", ["ftune", *map(str, words)])
    monkeypatch.setenv("TERM", "dumb")
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # pytest's workers ignore it
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, handler))
    put = _Written.put

    def slowly(written: _Written, tokens: Any) -> None:
        time.sleep(0.02)  # so that a reply can be stopped in the middle
        put(written, tokens)

    monkeypatch.setattr(_Written, "put", slowly)
    ready = "\r\n> "
    script = [
        ("", ready),
        ("the cat\n", "per second)", ready),
        ("and \\\n", ". "),
        ("a mat\n", "(polite: 12 tokens, cut there, ", ready),
        ("/adapter othr\n", "did you mean 'other'?", ready),
        ("/adapter other\n", "other replies; there are polite, other and off", ready),
        ("/regn\n", "there is no command '/regn'; did you mean 'regen'?", ready),
        ("/regen\n", "(other: 12 tokens", ready),
        (f"/save {tmp_path}/said.jsonl\n", "saved as line 1 of", ready),
        ("/compare\n", "; other: 12 tokens", ready),
        ("/params top_k=5 max_new_tokens=200\n", "top_k=5 max_new_tokens=200", ready),
        ("//x\n", "//x\r\n", " bi bi"),
        ("^C", ", stopped, ", ready),
        ("/reset\n", "forgotten", ready),
        ("/regen\n", "there is no question yet", ready),
        ("^C", "(Ctrl-D or /quit ends)", ready),
        ("/system be kind\n", "set, from the next reply on", ready),
        ("\x04",),
    ]
    with own_terminal() as terminal:
        typist = threading.Thread(target=terminal.type, args=script, daemon=True)
        typist.start()
        with pytest.raises(SystemExit, match="0"):
            main()
        typist.join(10)
    assert not terminal.missed, f"{terminal.missed} in {terminal.said}"
    messages = json.loads((tmp_path / "said.jsonl").read_text())["messages"]
    assert [turn["role"] for turn in messages] == ["user", "assistant"] * 2
    assert messages[2]["content"] == "and \na mat"
    assert "Traceback" not in terminal.said
