"""What `ftune chat` talks to: a model, the adapters that can be switched on it, and how it reads and writes."""

import json
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftune.core.errors import DataError, ModelError, RecipeError
from ftune.core.quiet import quiet_bars
from ftune.core.say import Say
from ftune.merge.sources import Found, find_source, told_of
from ftune.models.load import load_config, load_tokenizer, locate_model
from ftune.models.reward_facts import read_reward_facts
from ftune.recipes.model_section import Model
from ftune.recipes.runs.chat_sampling import Sampling, sampling_of
from ftune.recipes.runs.found_model import base_of, load_section, section_of
from ftune.report.run_folder import read_command

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from ftune.data.template import Template
    from ftune.merge.engines.switching import Switch

BASE = "base"
"""What the model without an adapter is called."""


@dataclass(slots=True)
class Opened:
    """A model that is ready to be asked."""

    name: str
    """Of the model where no adapter is in use."""
    switch: "Switch"
    tokenizer: "PreTrainedTokenizerBase"
    template: "Template | None"
    """None continues texts as they are."""
    stops: tuple[int, ...]
    """The tokens that end a reply."""
    positions: int | None
    """The longest text that the model can read, in tokens; None where there is no limit."""
    usual: Sampling
    base: Model | None = None
    """What a whole model was tuned from, where its run says so."""
    _loaded_base: "PreTrainedModel | None" = None

    @property
    def speaker(self) -> str:
        """Who replies now."""
        return self.switch.current or (BASE if self.switch.names else self.name)

    @property
    def room(self) -> int | None:
        """Tokens of text that the model in use can read: virtual tokens take some of its positions."""
        config = getattr(self.switch.model, "active_peft_config", None)
        return self.positions and self.positions - int(getattr(config, "num_virtual_tokens", None) or 0)

    def sides(self) -> list[tuple[str, AbstractContextManager[Any]]]:
        """Base and tuned model, each with its name. Raises ModelError where there is but one."""
        if self.switch.names:
            tuned = self.switch.current or self.switch.names[0]
            return [(BASE, self.switch.using(None)), (tuned, self.switch.using(tuned))]
        if self.base is None:
            raise ModelError(
                f"'{self.name}' is a whole model, and what it was tuned from is not known; open the run that made it, "
                "or its base with --adapter"
            )
        if self._loaded_base is None:
            self._loaded_base = load_section(self.base).eval()
        return [(BASE, nullcontext(self._loaded_base)), (self.name, nullcontext(self.switch.model))]


def open_chat(target: str, adapters: Sequence[str], plain: bool | None, say: Say) -> Opened:
    """Load what is at `target`, with `adapters` (NAME=FOLDER) beside its own, which is in use.

    `plain` continues texts without a template; None does so where the model was trained so, or has no template. Raises
    ModelError for what is not there, does not fit or gives no text, RecipeError for a word that is no NAME=FOLDER.
    """
    found = find_source(target)
    others = [_named_adapter(word) for word in adapters]
    words = found if found.adapter or not others else others[0][1]  # it knows how it was trained, and replies first
    for source in (found, *(other for _, other in others)):
        _check_writes(source)
    if found.adapter and not found.base:
        raise ModelError(
            f"{target}: does not say what it was trained on; name it: ftune chat MODEL --adapter NAME={target}"
        )
    from ftune.data.stops import stop_ids
    from ftune.merge.engines.switching import Switch

    quiet_bars()
    section = section_of(found)
    with told_of(target):
        located = locate_model(section.path)
        how: dict[str, Any] = {"revision": section.revision, "trust_remote_code": section.trust_remote_code}
        config = load_config(located, **how)
        _check_causal(target, config.architectures or ())
        beside = _beside(words)
        tokenizer = load_tokenizer(beside) if beside else load_tokenizer(located, **how)
        template = _template(words, tokenizer, plain, say)
        model = load_section(section, located=located)
    parameters = model.num_parameters()
    switch = Switch(model)
    name = _short_name(found)
    for adapter, source in [*([(name, found)] if found.adapter else []), *others]:
        switch.add(adapter, Path(source.folder))
        _tell_adapter(adapter, source, found, template, switch, say)
    switch.use(next(iter(switch.names), None))
    stops = set(stop_ids(tokenizer, template)) | _ids(model.generation_config.eos_token_id)
    if not stops:
        say.warning("no token is known that ends a reply; each goes on up to max_new_tokens")
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    usual, base = sampling_of(model.generation_config), base_of(found)
    opened = Opened(name, switch, tokenizer, template, tuple(sorted(stops)), positions, usual, base)
    _tell_model(opened, model, parameters, say)
    return opened


def _named_adapter(word: str) -> tuple[str, Found]:
    name, equals, folder = word.partition("=")
    if not equals or not name or not folder:
        raise RecipeError(f"--adapter: '{word}' is no NAME=FOLDER, as in --adapter polite=runs/polite")
    if name in ("off", BASE):
        raise RecipeError(f"--adapter: '{name}' means the model without an adapter; choose another name")
    found = find_source(folder)
    if not found.adapter:
        raise ModelError(f"--adapter {name}: '{folder}' is a whole model, no adapter; chat with it alone")
    return name, found


def _check_writes(found: Found) -> None:
    """Raises ModelError for what scores texts and writes none."""
    scores = found.classes or (found.run and read_command(found.run) == "rm")
    if scores or (Path(found.folder).is_dir() and read_reward_facts(Path(found.folder))):
        raise ModelError(
            f"{found.path}: is a reward model or a classifier, which scores texts and writes none; see 'ftune eval'"
        )


def _check_causal(target: str, architectures: Sequence[str]) -> None:
    if any(name.endswith(("ForSequenceClassification", "ForTokenClassification")) for name in architectures):
        raise ModelError(f"{target}: is a classifier, which scores texts and writes none; see 'ftune eval'")


def _beside(found: Found) -> str:
    """The folder of an adapter that has its tokenizer with it; empty without one."""
    folder = Path(found.folder)
    return str(folder.resolve()) if found.adapter and (folder / "tokenizer_config.json").is_file() else ""


def _template(found: Found, tokenizer: "PreTrainedTokenizerBase", plain: bool | None, say: Say) -> "Template | None":
    """The template it was trained with, which lies with its tokenizer."""
    from ftune.data.template import choose_template

    if plain is None:
        plain = _trained_on_text(found)
        if plain and tokenizer.chat_template:
            say.line("its run trained on plain text, without the chat template: texts are continued; --chat uses it")
        elif not tokenizer.chat_template:
            say.line("there is no chat template: each text is continued, and nothing is remembered")
            plain = True
    if plain:
        return None
    try:
        return choose_template(tokenizer)
    except DataError:
        raise ModelError(f"--chat: '{found.path}' has no chat template; --plain continues texts") from None


def _trained_on_text(found: Found) -> bool:
    if found.run is None:
        return False
    try:
        described = json.loads((found.run / "data.json").read_text(encoding="utf-8"))
        return bool(described["train"]["format"] == "text")
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _short_name(found: Found) -> str:
    """Of a run its folder's name; of an adapter or a model the last part that says something."""
    path = found.run or Path(found.path)
    parts = [part for part in path.absolute().parts if part not in ("adapter", "model", "merged")]
    return parts[-1].removeprefix("wheel:")


def _ids(stops: int | Sequence[int] | None) -> set[int]:
    return set() if stops is None else {stops} if isinstance(stops, int) else set(stops)


def _tell_adapter(
    name: str, source: Found, found: Found, template: "Template | None", switch: "Switch", say: Say
) -> None:
    base = found.base if found.adapter else found.folder
    if source is not found and source.base and _place(source.base) != _place(base):
        say.warning(f"adapter '{name}' was trained on '{source.base}', which may be another model than '{base}'")
    beside = Path(source.folder) / "chat_template.jinja"
    if source is not found and template and beside.is_file() and beside.read_text(encoding="utf-8") != template.text:
        say.warning(f"adapter '{name}' was trained with another chat template than the one in use")
    if reason := switch.unmerged(name):
        say.line(f"adapter '{name}' slows replies down a little: {reason}")


def _place(base: str) -> str:
    """Where a model is; its name where it is not on this machine."""
    try:
        return locate_model(base)
    except ModelError:
        return base


def _tell_model(opened: Opened, model: "PreTrainedModel", parameters: int, say: Say) -> None:
    where = "CPU" if model.device.type == "cpu" else "GPU"
    dtype = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}.get(str(model.dtype).removeprefix("torch."), "")
    names = f"; adapters: {', '.join(opened.switch.names)}" if opened.switch.names else ""
    say.line(f"model: {parameters:,} parameters, {dtype} on {where}{names}")
