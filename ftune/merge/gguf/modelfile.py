"""An Ollama Modelfile that prompts a GGUF model exactly as its chat template did in training.

Facts of Ollama's source: without TEMPLATE it takes one that it knows if the file's chat template is within 100 edits of
it, else the bare prompt. SYSTEM is the system prompt of conversations that have none. Its tokenizer puts the BOS before
a prompt where the GGUF file says so. Its parser drops characters that cannot be printed.

Two things that a Jinja template can do are beyond a Go template of Ollama: to strip blanks around a text, and to drop
the thoughts of former answers. Texts with neither are rendered the same, and that is what is proved.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftune.core.errors import DataError, ModelError
from ftune.core.paths import shown
from ftune.data.template import adds_bos, choose_template, render
from ftune.merge.gguf.go_template import render_go
from ftune.merge.gguf.turns import IrregularError, Render, System, Turns, read_turns
from ftune.models.load import load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PARAMETERS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "repetition_penalty": "repeat_penalty",
    "max_new_tokens": "num_predict",
}
"""Ollama's names for settings of generation_config.json."""

QUESTIONS = ["Who wrote 'Faust'?", "Say it in Greek: Γειά!\n\nThen {{ stop }}.", '1 + 1 = ?\n\t"two" or <b>2</b>']
ANSWERS = ["Goethe wrote it.\nIn two parts.", "Γειά σου 🙂 {% raw %}", "Two."]
SYSTEM_PROMPT = "You answer in one line.\nNever guess."


def modelfile(folder: Path, gguf_name: str) -> str:
    """The Modelfile for the model of `folder`, whose GGUF file `gguf_name` lies beside it.

    Raises ModelError where Ollama cannot render the conversations as the chat template does.
    """
    tokenizer = load_tokenizer(str(folder))
    if not tokenizer.chat_template:
        raise ModelError(f"modelfile: {shown(folder)}: has no chat template, so Ollama cannot chat with it as trained")
    try:
        rendered = _render_of(tokenizer)
        turns = read_turns(rendered)
        template, default = go_template(turns), (turns.system.default or "") if turns.system else ""
        _prove(template, default, rendered, with_system=turns.system is not None)
        lines = [f"FROM ./{gguf_name}", f"TEMPLATE {_quoted(template)}"]
        if default:
            lines.append(f"SYSTEM {_quoted(default)}")
    except (IrregularError, DataError) as error:
        raise ModelError(
            f"modelfile: {shown(folder)}: its chat template cannot be written for Ollama: {error}; serve the GGUF file "
            "with `llama-server --jinja`, which uses the template in it, or train with another template"
        ) from None
    generation = _generation(folder)
    lines += [f'PARAMETER stop "{stop}"' for stop in _stops(tokenizer, generation, turns)]
    lines += [f"PARAMETER {name} {value:g}" for name, value in _parameters(generation)]
    return "\n".join(lines) + "\n"


def go_template(turns: Turns) -> str:
    """The Go template for these turns. Lines break only behind an action, where `{{-` takes the break away again."""
    system = turns.system
    within = ""
    if system and system.place != "head":
        condition, done = ("and $last $system", "") if system.place == "last" else ("$system", '{{ $system = "" }}')
        within = (
            f"{{{{ if {condition} }}}}{_text(system.open)}{{{{ $system }}}}{_text(system.close)}{done}{{{{ end }}}}"
        )
    return (
        ("{{ $system := .System }}" if within else "")
        + (_head(system) if system and not within else _text(turns.head))
        + "{{ range $i, $_ := .Messages }}\n"
        + "{{- $last := eq (len (slice $.Messages $i)) 1 }}\n"
        + '{{- if eq .Role "user" }}'
        + f"{_text(turns.user_open)}{within}{{{{ .Content }}}}{_text(turns.user_close)}"
        + '{{ else if eq .Role "assistant" }}'
        + f"{_text(turns.assistant_open)}{{{{ .Content }}}}"
        + f"{{{{ if not $last }}}}{_text(turns.assistant_close)}{{{{ end }}}}{{{{ end }}}}\n"
        + f'{{{{- if and $last (ne .Role "assistant") }}}}{_text(turns.generation)}{{{{ end }}}}\n'
        + "{{- end }}"
    )


def _head(system: System) -> str:
    written = f"{{{{ .System }}}}{_text(system.close)}"
    if system.default is not None:
        return _text(system.open) + written
    if system.open.startswith(system.otherwise):
        rest = system.open.removeprefix(system.otherwise)
        return f"{_text(system.otherwise)}{{{{ if .System }}}}{_text(rest)}{written}{{{{ end }}}}"
    return f"{{{{ if .System }}}}{_text(system.open)}{written}{{{{ else }}}}{_text(system.otherwise)}{{{{ end }}}}"


def _text(text: str) -> str:
    """Text of a Go template, as a literal where it looks like an action."""
    return f"{{{{ {json.dumps(text, ensure_ascii=False)} }}}}" if "{{" in text or "}}" in text else text


def _quoted(text: str) -> str:
    if '"""' in text or not all(letter.isprintable() or letter in "\n\t" for letter in text):
        raise IrregularError("it holds three quotation marks or a character that Ollama's Modelfiles cannot hold")
    return f'"""{text}"""'


def _render_of(tokenizer: "PreTrainedTokenizerBase") -> Render:
    """The chat template at work, without the BOS that the tokenizer of the GGUF file adds."""
    template = choose_template(tokenizer)
    if "strftime_now" in template.text:
        raise IrregularError("it writes today's date")
    begin = str(tokenizer.bos_token) if adds_bos(tokenizer) else ""

    def rendered(turns: Sequence[tuple[str, str]], generation: bool) -> str:
        messages = [{"role": role, "content": content} for role, content in turns]
        text = render(tokenizer, template, messages, generation_prompt=generation)
        if not text.startswith(begin):
            raise IrregularError(f"it does not begin with {begin}, which the tokenizer puts before every text")
        return text.removeprefix(begin)

    return rendered


def _prove(template: str, default: str, rendered: Render, *, with_system: bool) -> None:
    """Render conversations of one to three questions in both ways. Raises IrregularError where they differ."""
    turns = [
        turn for pair in zip(QUESTIONS, ANSWERS, strict=True) for turn in (("user", pair[0]), ("assistant", pair[1]))
    ]
    conversations = [turns[:1], turns[:3], turns[:5]]
    if with_system:
        conversations += [[("system", SYSTEM_PROMPT), *conversation] for conversation in conversations]
    for conversation in conversations:
        messages = [{"Role": role, "Content": content} for role, content in conversation]
        if default and messages[0]["Role"] != "system":
            messages.insert(0, {"Role": "system", "Content": default})
        system = messages[0]["Content"] if messages[0]["Role"] == "system" else ""
        if render_go(template, {"System": system, "Messages": messages}) != rendered(conversation, True):
            raise IrregularError("it does more than to write fixed texts around the turns")


def _generation(folder: Path) -> dict[str, Any]:
    file = folder / "generation_config.json"
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except ValueError:
        raise ModelError(f"{shown(file)}: is not whole JSON; write the model again") from None
    return found


def _stops(tokenizer: "PreTrainedTokenizerBase", generation: dict[str, Any], turns: Turns) -> list[str]:
    """The tokens at which an answer ends: those of generation_config.json, the EOS, and what ends a turn."""
    ids = generation.get("eos_token_id") or []
    stops = tokenizer.convert_ids_to_tokens(ids if isinstance(ids, list) else [ids])
    if tokenizer.eos_token:
        stops.append(str(tokenizer.eos_token))
    ending = turns.assistant_close.lstrip()
    stops += [token for token in tokenizer.get_added_vocab() if ending.startswith(token)]
    return list(dict.fromkeys(stops))


def _parameters(generation: dict[str, Any]) -> list[tuple[str, float]]:
    """Ollama samples unless its temperature is 0; transformers ignores what is about sampling without `do_sample`."""
    if generation.get("do_sample") is False:
        return [("temperature", 0.0)]
    found = ((name, generation.get(key)) for key, name in PARAMETERS.items())
    return [(name, value) for name, value in found if value is not None]
