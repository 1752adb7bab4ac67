"""Modelfiles for Ollama: the Go template gives the text of the chat template, or there is none."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ftune.core.errors import ModelError
from ftune.data.template import SHIPPED, adds_bos, shipped
from ftune.merge.gguf.go_template import render_go
from ftune.merge.gguf.modelfile import modelfile
from tests.data.conftest import CHATML, DEEPSEEK, GEMMA, LLAMA, TEMPLATES, TURNS, byte_level

ALWAYS_A_HEAD = """{{- bos_token }}{% set system = messages[0]['content'] if messages[0]['role'] == 'system' else '' -%}
{{- '<|start_header_id|>system<|end_header_id|>\\n\\nToday is Monday.\\n\\n' + system + '<|eot_id|>' -}}
{%- for turn in messages if turn['role'] != 'system' -%}
    {{- '<|start_header_id|>' + turn['role'] + '<|end_header_id|>\\n\\n' + turn['content'] | trim + '<|eot_id|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}{%- endif -%}"""

SYSTEM_LAST = """{{- bos_token -}}
{%- set system = messages[0]['content'] if messages[0]['role'] == 'system' else '' -%}
{%- for turn in messages if turn['role'] != 'system' -%}
    {%- if turn['role'] == 'user' -%}
        {{- '[INST] ' + (system + '\\n\\n' if system and loop.last else '') + turn['content'] + '[/INST]' -}}
    {%- else -%}{{- ' ' + turn['content'] + eos_token -}}{%- endif -%}
{%- endfor -%}"""

OTHER_HEAD = """{%- if messages[0]['role'] != 'system' %}{{ 'No rules.\\n' }}{% endif -%}
{%- for turn in messages -%}{{- '### ' + turn['role'] + ': ' + turn['content'] + '\\n{{end}}\\n' -}}{%- endfor -%}
{%- if add_generation_prompt %}{{ '### assistant: <think>\\n' }}{% endif -%}"""

LLAMA2 = """{%- set system = messages[0]['content'] if messages[0]['role'] == 'system' else '' -%}
{%- for turn in messages if turn['role'] != 'system' -%}
    {%- if turn['role'] == 'user' -%}
        {{- bos_token + '[INST] ' -}}
        {{- '<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' if system and loop.first else '' -}}
        {{- turn['content'] | trim + ' [/INST]' -}}
    {%- else -%}{{- ' ' + turn['content'] | trim + ' ' + eos_token -}}{%- endif -%}
{%- endfor -%}"""

ZEPHYR = """{%- for turn in messages -%}{{- '<|' + turn['role'] + '|>\\n' + turn['content'] + eos_token + '\\n' -}}
{%- endfor -%}{%- if add_generation_prompt -%}{{- '<|assistant|>\\n' -}}{%- endif -%}"""


def own(name: str) -> str:
    """A template of the tests of data."""
    return (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")


def chatml(*, bos: bool = False) -> Any:
    return byte_level(CHATML, [], CHATML[1] if bos else None, CHATML[2], add_bos=False)


def sentences(*, add_bos: bool) -> Any:
    return byte_level(["<s>", "</s>"], [], "<s>", "</s>", add_bos=add_bos)


def llama(*, add_bos: bool = True) -> Any:
    return byte_level(LLAMA, [], LLAMA[0], LLAMA[3], add_bos=add_bos)


CASES: dict[str, tuple[Callable[[], Any], str]] = {
    "chatml": (chatml, (SHIPPED / "chatml.jinja").read_text(encoding="utf-8")),
    "smollm2": (lambda: chatml(bos=True), own("smollm2")),
    "qwen3": (chatml, own("qwen3")),
    "gemma3": (lambda: byte_level(GEMMA, [], GEMMA[0], GEMMA[1], add_bos=True), own("gemma3")),
    "llama2": (lambda: sentences(add_bos=True), LLAMA2),
    "llama3": (llama, ALWAYS_A_HEAD),
    "llama3, no BOS added": (lambda: llama(add_bos=False), ALWAYS_A_HEAD),
    "mistral": (lambda: sentences(add_bos=True), SYSTEM_LAST),
    "deepseek": (lambda: byte_level(DEEPSEEK, TURNS, DEEPSEEK[0], DEEPSEEK[1], add_bos=False), own("deepseek")),
    "zephyr": (lambda: sentences(add_bos=False), ZEPHYR),
    "another head": (chatml, OTHER_HEAD),
}
"""A tokenizer and a chat template each."""

REFUSED = {
    "a system prompt as an answer": (lambda: sentences(add_bos=True), own("llama2"), "does not begin with <s>"),
    "date": (llama, own("llama3"), "writes today's date"),
    "shuffling": (chatml, own("shuffling"), "cannot be written for Ollama"),
    "shouting": (chatml, ZEPHYR.replace("turn['content']", "turn['content'] | upper"), "leaves turns out"),
    "counting": (chatml, ZEPHYR.replace("turn['content']", "loop.index | string + turn['content']"), "all turns alike"),
    "twice": (chatml, ZEPHYR.replace("turn['content']", "turn['content'] * 2"), "a turn twice"),
    "by length": (chatml, ZEPHYR.replace("eos_token", "('!' if turn['content'] | length > 20 else '')"), "fixed texts"),
    "no BOS": (llama, ZEPHYR, "does not begin with <|begin_of_text|>"),
    "unprintable": (chatml, ZEPHYR.replace("'<|'", "'\u200b'"), "cannot be printed|cannot hold"),
}
"""Templates that no Go template of ours can be, and a part of the reason."""


def folder_of(tokenizer: Any, template: str, folder: Path) -> Path:
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return folder


def block(written: str, name: str) -> str:
    """What stands between three quotation marks behind a word of a Modelfile."""
    found = re.search(rf'^{name} """(.*?)"""$', written, re.DOTALL | re.MULTILINE)
    return found[1] if found else ""


def as_ollama(written: str, messages: list[dict[str, str]]) -> str:
    """The prompt that Ollama makes of a conversation with this Modelfile."""
    if (default := block(written, "SYSTEM")) and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": default}, *messages]
    system = "\n\n".join(one["content"] for one in messages if one["role"] == "system")
    given = [{"Role": one["role"], "Content": one["content"]} for one in messages]
    return render_go(block(written, "TEMPLATE"), {"System": system, "Messages": given})


texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1).filter(
    lambda text: text == text.strip() and "think>" not in text
)


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, str]:
    """A tokenizer with its chat template, and the Modelfile."""
    make, template = CASES[request.param]
    tokenizer = make()
    return tokenizer, modelfile(folder_of(tokenizer, template, tmp_path_factory.mktemp("model")), "model.gguf")


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_conversation_gets_the_text_of_the_chat_template(case: tuple[Any, str], data: st.DataObject) -> None:
    tokenizer, written = case
    turns = data.draw(st.lists(texts, min_size=1, max_size=7).filter(lambda turns: len(turns) % 2 == 1))
    roles = ["user", "assistant"] * len(turns)
    messages = [{"role": role, "content": text} for role, text in zip(roles, turns, strict=False)]
    if "ystem" in written and data.draw(st.booleans()):
        messages.insert(0, {"role": "system", "content": data.draw(texts)})
    wanted = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    bos = str(tokenizer.bos_token) if adds_bos(tokenizer) else ""
    assert bos + as_ollama(written, messages) == wanted


def test_the_default_system_prompt_is_the_modelfiles_and_stops_end_each_answer(tmp_path: Path) -> None:
    make, template = CASES["smollm2"]
    folder = folder_of(make(), template, tmp_path)
    (folder / "generation_config.json").write_text(
        '{"eos_token_id": [2, 0], "do_sample": true, "temperature": 0.7, "top_p": 0.9, "repetition_penalty": 1.05}'
    )
    lines = modelfile(folder, "tiny.gguf").splitlines()
    assert lines[0] == "FROM ./tiny.gguf"
    assert 'SYSTEM """You answer briefly."""' in lines
    assert lines[-5:] == [
        'PARAMETER stop "<|im_end|>"',
        'PARAMETER stop "<|endoftext|>"',
        "PARAMETER temperature 0.7",
        "PARAMETER top_p 0.9",
        "PARAMETER repeat_penalty 1.05",
    ]


def test_the_end_of_a_turn_stops_an_answer_and_greedy_models_stay_greedy(tmp_path: Path) -> None:
    make, template = CASES["gemma3"]
    folder = folder_of(make(), template, tmp_path)
    (folder / "generation_config.json").write_text('{"do_sample": false, "temperature": 0.7}')
    written = modelfile(folder, "tiny.gguf")
    assert re.findall('PARAMETER stop "(.*)"', written) == ["<eos>", "<end_of_turn>"]
    assert written.endswith("PARAMETER temperature 0\n")


@pytest.mark.parametrize("name", REFUSED)
def test_a_template_that_does_more_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    make, template, reason = REFUSED[name]
    with pytest.raises(ModelError, match=reason) as caught:
        modelfile(folder_of(make(), template, tmp_path), "tiny.gguf")
    assert "\n" not in str(caught.value)
    assert "llama-server --jinja" in str(caught.value)


def test_a_broken_generation_config_is_named(tmp_path: Path) -> None:
    make, template = CASES["zephyr"]
    folder = folder_of(make(), template, tmp_path)
    (folder / "generation_config.json").write_text("{")
    with pytest.raises(ModelError, match="not whole JSON"):
        modelfile(folder, "tiny.gguf")


def test_a_model_that_was_never_chatted_with_has_no_modelfile(tmp_path: Path) -> None:
    chatml().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="has no chat template"):
        modelfile(tmp_path, "tiny.gguf")


def test_ftunes_own_templates_are_among_the_cases() -> None:
    assert set(shipped()) <= set(CASES)
