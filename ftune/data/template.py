"""The chat template of a run: the tokenizer's own, a shipped one, or a file; and rendering with it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from ftune.core.errors import DataError
from ftune.core.suggest import did_you_mean
from ftune.data.example import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SHIPPED = Path(__file__).parent / "templates"

Turn: TypeAlias = Mapping[str, Any]
"""A message as chat templates know it: `role`, `content`, and `tool_calls` where it has some."""

TEMPLATE_FAULTS = (TypeError, ValueError, LookupError, ArithmeticError, AttributeError, RecursionError)
"""What the code in a template can raise beside the errors of jinja2."""

Tools: TypeAlias = Sequence[Mapping[str, Any]]

Render: TypeAlias = Callable[[Sequence[Turn], Tools, bool], str]
"""A template at work: turns, tools, and whether the generation prompt follows them."""


@dataclass(frozen=True, slots=True)
class Template:
    """A chat template as text, with where it came from; `text` is what is saved with the model."""

    text: str
    name: str
    sha256: str
    origin: str


def choose_template(tokenizer: "PreTrainedTokenizerBase", named: str | None = None) -> Template:
    """The named template (a shipped one or a `.jinja` file), or else the tokenizer's own.

    Raises DataError when there is none. Rows without a chat need no template: call this only for chat rows.
    """
    if named is None:
        own = tokenizer.chat_template
        if isinstance(own, dict):
            own = own.get("default")
        if not own:
            raise DataError(
                "chat rows need a chat template and this tokenizer has none; name one in the recipe: "
                f"'model.chat_template: chatml' (shipped: {', '.join(shipped())}) or the path of a .jinja file"
            )
        return _template(own, "own", "the tokenizer's own")
    if named in shipped():
        text = (SHIPPED / f"{named}.jinja").read_text(encoding="utf-8")
        return _template(_adapted(text, tokenizer), named, f"shipped with ftune as '{named}'")
    return _from_file(Path(named))


def shipped() -> list[str]:
    """The names of the templates that come with ftune."""
    return sorted(path.stem for path in SHIPPED.glob("*.jinja"))


def check_named(named: str | None) -> str:
    """What is wrong with the name of a template, as far as a look at files tells; empty when nothing is."""
    missing = named is not None and named.endswith((".jinja", ".j2")) and not Path(named).is_file()
    return f"no such file '{named}'" if missing else ""


def as_turn(message: Message) -> Turn:
    """The message for a template. Some templates ask whether `tool_calls` is there, so it is there only with calls."""
    turn: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        functions = ({"name": call.name, "arguments": call.arguments} for call in message.tool_calls)
        turn["tool_calls"] = [{"type": "function", "function": function} for function in functions]
    return turn


def render(
    tokenizer: "PreTrainedTokenizerBase",
    template: Template,
    turns: Sequence[Turn],
    *,
    tools: Tools = (),
    generation_prompt: bool = False,
) -> str:
    """The conversation as the model will read it.

    DataError says what the template said when it refuses the conversation.
    """
    from jinja2 import TemplateError

    try:
        text: Any = tokenizer.apply_chat_template(
            list(turns),
            tools=list(tools) or None,
            chat_template=template.text,
            tokenize=False,
            add_generation_prompt=generation_prompt,
        )
    except (TemplateError, *TEMPLATE_FAULTS) as error:
        raise DataError(f"the chat template ({template.origin}) refuses this conversation: {error}") from None
    return str(text)


def _from_file(path: Path) -> Template:
    if not path.is_file():
        hint = did_you_mean(str(path), shipped())
        raise DataError(f"{path}: no such chat template: neither a file nor one of the shipped ones{hint}")
    try:
        return _template(path.read_text(encoding="utf-8"), path.stem, str(path))
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: the chat template is not UTF-8 text (byte {error.start})") from None


def _adapted(text: str, tokenizer: "PreTrainedTokenizerBase") -> str:
    """Fit a shipped template's first lines to this tokenizer; see the notes in the template itself."""
    if len(tokenizer.encode("<|im_end|>", add_special_tokens=False)) != 1:
        text = text.replace("set end = '<|im_end|>'", "set end = eos_token")
    if adds_bos(tokenizer):
        text = text.replace("set begin = ''", "set begin = bos_token")
    return text


def adds_bos(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether this tokenizer puts its BOS before every text by default."""
    bos = tokenizer.bos_token_id
    return bos is not None and tokenizer("a")["input_ids"][:1] == [bos]


def _template(text: str, name: str, origin: str) -> Template:
    return Template(text, name, sha256(text.encode()).hexdigest(), origin)
