"""A chat at the terminal: lines read, commands obeyed, replies written as they come."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from unicodedata import category

from rich.table import Table

from ftune.core.errors import FtuneError, RecipeError
from ftune.core.paths import cache_dir, shown
from ftune.core.say import Say
from ftune.core.suggest import did_you_mean
from ftune.recipes.runs.chat_model import BASE
from ftune.recipes.runs.chat_reply import Reply
from ftune.recipes.runs.chat_turns import Chat

HISTORY = "chat_history"
"""In the cache folder: what was typed, for the arrow keys."""

HISTORY_LINES = 1000

HELP = """\
/adapter [NAME|off]   who replies: another adapter, or the base without one
/compare [QUESTION]   base and tuned side by side, on the last question or a new one
/help                 this list
/params [NAME=VALUE]  how replies are drawn: temperature, top_p, top_k, max_new_tokens
/quit                 end, as Ctrl-D does
/regen                the last question again
/reset                forget what was said
/save FILE            add the conversation to FILE, as a row that 'ftune sft' reads
/system [TEXT]        what stands before the first turn; nothing removes it
A backslash at the end of a line goes on in the next one; Ctrl-C stops a reply; '//' begins a text with a slash."""


class QuitError(Exception):
    """The person has said goodbye."""


@dataclass(slots=True)
class Loop:
    """The conversation of one person."""

    chat: Chat
    say: Say
    commands: dict[str, Callable[[str], None]] = field(init=False)

    def __post_init__(self) -> None:
        self.commands = {
            "adapter": self._adapter,
            "compare": self._compare,
            "help": lambda rest: self.say.line(HELP),
            "params": self._params,
            "quit": self._quit,
            "regen": lambda rest: self._reply(self.chat.ask_again),
            "reset": self._reset,
            "save": self._save,
            "system": self._system,
        }

    def run(self) -> None:
        """Until Ctrl-D or /quit."""
        self.say.line(f"{self.chat.sampling}; /help lists the commands")
        with _remembered():
            while (text := self._read()) is not None:
                try:
                    self._obey(text)
                except QuitError:
                    return
                except FtuneError as error:
                    self.say.warning(str(error))
                except KeyboardInterrupt:
                    self.say.line("stopped")

    def _read(self) -> str | None:
        """What is typed next, over several lines where they end in a backslash; None at the end."""
        lines: list[str] = []
        while True:
            try:
                line = _line(". " if lines else "> ")
            except EOFError:
                self.say.line("")
                return None
            except KeyboardInterrupt:
                self.say.line("\n(Ctrl-D or /quit ends)")
                lines = []
                continue
            except UnicodeDecodeError:
                self.say.warning("that was not UTF-8")
                continue
            if not line.endswith("\\"):
                return "\n".join([*lines, line])
            lines.append(line[:-1])

    def _obey(self, text: str) -> None:
        if not text.strip():
            return
        if not text.startswith("/") or text.startswith("//"):
            question = text.removeprefix("/") if text.startswith("//") else text
            self._reply(lambda told: self.chat.ask(question, told))
            return
        word, _, rest = text[1:].partition(" ")
        if word not in self.commands:
            raise RecipeError(f"there is no command '/{word}'{did_you_mean(word, self.commands)}")
        self.commands[word](rest.strip())

    def _reply(self, ask: Callable[[Callable[[str], None]], Reply]) -> None:
        reply = ask(write)
        if reply.text:
            write("\n")
        self.say.console.print(f"({self.chat.opened.speaker}: {reply.measured})", style="dim", markup=False)

    def _compare(self, rest: str) -> None:
        with self.say.console.status("both reply"):
            replies = self.chat.compare(rest)
        table = Table(*(name for name, _ in replies), box=None, expand=True, padding=(0, 2, 0, 0))
        table.add_row(*(printable(reply.text) for _, reply in replies))
        for column in table.columns:
            column.ratio = 1
        self.say.out.print(table, soft_wrap=False, markup=False)
        measured = "; ".join(f"{name}: {reply.measured}" for name, reply in replies)
        self.say.console.print(f"({measured})", style="dim", markup=False)

    def _adapter(self, name: str) -> None:
        switch = self.chat.opened.switch
        if not switch.names:
            raise RecipeError("there are no adapters; start with --adapter NAME=FOLDER")
        if name:
            switch.use(None if name in ("off", BASE) else name)
        self.say.line(f"{self.chat.opened.speaker} replies; there are {', '.join(switch.names)} and off")

    def _params(self, rest: str) -> None:
        self.chat.sampling = self.chat.sampling.changed(rest.split())
        self.say.line(str(self.chat.sampling))

    def _reset(self, rest: str) -> None:
        self.chat.turns = []
        self.say.line("forgotten" + ("; the system text stays" if self.chat.system else ""))

    def _save(self, rest: str) -> None:
        if not rest:
            raise RecipeError("/save needs a file, as in /save chats.jsonl")
        self.say.line(f"saved as line {self.chat.save(Path(rest))} of {shown(Path(rest))}")

    def _system(self, rest: str) -> None:
        before, self.chat.system = self.chat.system, rest
        self.say.line("set, from the next reply on" if rest else f"removed: {before}" if before else "there is none")

    def _quit(self, rest: str) -> None:
        raise QuitError


def write(text: str) -> None:
    """A piece of a reply, at once."""
    sys.stdout.write(printable(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()


def printable(text: str) -> str:
    """Without what would steer the terminal: a model can write such characters too."""
    return "".join("\ufffd" if category(mark) == "Cc" and mark not in "\n\t" else mark for mark in text)


def _line(prompt: str) -> str:
    """One line that is typed. Where replies go to a file, the prompt does not go there with them."""
    if sys.stdout.isatty():
        return input(prompt)
    print(prompt, end="", file=sys.stderr, flush=True)
    if not (line := sys.stdin.readline()):
        raise EOFError
    return line.rstrip("\n")


@contextmanager
def _remembered() -> Iterator[None]:
    """The arrow keys, and what was typed in earlier chats; nothing of it where Python has no readline."""
    try:
        import readline
    except ImportError:
        yield
        return
    file = cache_dir() / HISTORY
    with suppress(OSError):  # not there yet, or not to be read: then there is no history
        readline.read_history_file(file)
    readline.set_history_length(HISTORY_LINES)
    try:
        yield
    finally:
        with suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            readline.write_history_file(file)
