"""What `ftune chat` does: open a model, then talk at the terminal, answer piped lines, or reply once."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ftune.core.errors import RecipeError
from ftune.core.say import Say


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked for on the command line."""

    target: str
    """A run, an adapter or a model."""
    settings: Sequence[str] = ()
    """`NAME=VALUE` words of `Sampling`."""
    adapters: Sequence[str] = ()
    """`NAME=FOLDER` words."""
    system: str = ""
    prompt: str | None = None
    """The only question."""
    as_json: bool = False
    greedy: bool = False
    seed: int | None = None
    plain: bool | None = None
    """Whether texts are continued without a chat template; None as the model was trained."""


def run_chat(asked: Asked) -> None:
    """Talk until the person has had enough. Raises FtuneError for what is wrong before, or in a piped line."""
    from ftune.recipes.runs.chat_batch import as_json, as_line, reply_to_lines
    from ftune.recipes.runs.chat_loop import Loop, write
    from ftune.recipes.runs.chat_sampling import Sampling

    typed = asked.prompt is None and sys.stdin.isatty()
    if typed and asked.as_json:
        raise RecipeError("--json: is for piped input, or for --prompt TEXT")
    if asked.greedy and any(word.startswith("temperature=") for word in asked.settings):
        raise RecipeError("--greedy and temperature: choose one")
    Sampling().changed(asked.settings)  # a wrong word is said before a model is loaded

    from ftune.recipes.runs.chat_model import open_chat
    from ftune.recipes.runs.chat_turns import Chat

    say = Say()
    with say.console.status(f"loading {asked.target}"):
        opened = open_chat(asked.target, asked.adapters, asked.plain, say)
    sampling = opened.usual.changed(asked.settings)
    sampling = replace(sampling, temperature=0.0) if asked.greedy else sampling
    chat = Chat(opened, sampling, say, system=asked.system, seed=asked.seed)
    if typed:
        Loop(chat, say).run()
        return
    say.line(str(sampling))
    if asked.prompt is None:
        for line, reply in reply_to_lines(sys.stdin.buffer, chat, asked.seed):
            print(as_json(line.prompt, reply) if asked.as_json else as_line(reply), flush=True)
        return
    reply = chat.ask(asked.prompt, (lambda text: None) if asked.as_json else write)
    print(as_json(asked.prompt, reply) if asked.as_json else "", flush=True)
    if reply.stop == "interrupted":
        raise KeyboardInterrupt
