"""The prompts of `ftune ppo`: rows read, asked and counted."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import xxhash

from ftune.core.errors import DataError
from ftune.core.say import Say
from ftune.core.several import several
from ftune.data.counts import NAMED_FAULTS
from ftune.data.encode import understood, understood_row
from ftune.data.example import Answered, Conversation, Example, Feedback, Preference, PromptCompletion, Skipped, Text
from ftune.data.formats.prompt import PromptFormat
from ftune.data.row import BadRow, Row
from ftune.data.split import split
from ftune.data.tokenize import RowTokenizer
from ftune.ppo.prompts import Prompt
from ftune.recipes.data_section import Source
from ftune.recipes.ppo_sections import Prompts
from ftune.recipes.runs.inputs import MAX_DROPPED
from ftune.recipes.runs.rows import TextModel

TOO_LONG = "too long"


@dataclass(slots=True)
class PromptSet:
    """The prompts of some sources, with what was found out on the way."""

    prompts: list[Prompt] = field(default_factory=list)
    groups: list[int] = field(default_factory=list)
    """A hash of each prompt's value in the group column; 0 without one."""
    understood_as: list[str] = field(default_factory=list)
    read: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)
    shortest: tuple[int, str] | None = None
    """Tokens and place of the shortest prompt that is too long."""

    @property
    def fingerprint(self) -> str:
        """xxh3_128: equal for equal prompts in the same order."""
        return xxhash.xxh3_128(repr([prompt.ids for prompt in self.prompts]).encode()).hexdigest()

    def described(self) -> dict[str, object]:
        """The facts of `data.json`."""
        lengths = [len(prompt.ids) for prompt in self.prompts]
        return {
            "format": self.understood_as,
            "fingerprint": self.fingerprint,
            "read": self.read,
            "dropped": dict(self.dropped),
            "prompts": len(lengths),
            "longest": max(lengths, default=0),
        }


def load_prompts(data: Prompts, text: TextModel, seed: int, positions: int | None) -> tuple[PromptSet, PromptSet]:
    """The training prompts and the held-out ones, which may be none. Raises DataError.

    `positions` is the longest sequence that the model can read.
    """
    train, held_out = _loaded(data, text, seed, min(data.max_length, positions or data.max_length))
    _share_columns(train, held_out)
    return train, held_out


def _loaded(data: Prompts, text: TextModel, seed: int, limit: int) -> tuple[PromptSet, PromptSet]:
    group = data.validation.group if data.validation else None
    train = _read_all(data.train, data, text, seed, limit, group)
    if data.validation is None:
        return train, PromptSet()
    if data.validation.source is not None:
        return train, _read_all([data.validation.source], data, text, seed, limit, None)
    import numpy as np

    keys = [xxhash.xxh3_64_intdigest(repr(prompt.ids).encode()) for prompt in train.prompts]
    try:
        kept, out = split(
            np.array(keys, np.uint64),
            data.validation.fraction or data.validation.count or 0,
            seed,
            groups=np.array(train.groups, np.uint64) if group else None,
        )
    except DataError as error:
        raise DataError(f"data.validation: {error}") from None
    held_out = replace(train, prompts=[train.prompts[index] for index in out], dropped=Counter(), read=0)
    return replace(train, prompts=[train.prompts[index] for index in kept]), held_out


def _share_columns(*sets: PromptSet) -> None:
    """Give every prompt the columns of all, None where its row has none of that name.

    Else what a reward function is called with would depend on which prompts come together.
    """
    names = dict.fromkeys(name for found in sets for prompt in found.prompts for name in prompt.columns)
    for found in sets:
        found.prompts = [
            prompt if len(prompt.columns) == len(names) else replace(prompt, columns={**names, **prompt.columns})
            for prompt in found.prompts
        ]


def tell_prompts(train: PromptSet, held_out: PromptSet, say: Say) -> None:
    """Say what was understood."""
    for line in train.understood_as:
        say.line(f"prompts: {line}")
    longest = max(len(prompt.ids) for prompt in train.prompts)
    prompts = several(len(train.prompts), "prompt")
    say.line(f"  {several(train.read, 'row')} read, {prompts}, the longest has {longest:,} tokens")
    _tell_dropped(train, say)
    if held_out.prompts:
        say.line(f"  held out: {several(len(held_out.prompts), 'prompt')}")
        _tell_dropped(held_out, say)
        known = {tuple(prompt.ids) for prompt in train.prompts}
        if shared := sum(tuple(prompt.ids) in known for prompt in held_out.prompts):
            say.warning(f"{shared:,} held-out prompts are also training prompts, so the held-out score will flatter")


def _tell_dropped(found: PromptSet, say: Say) -> None:
    for cause, number in sorted(found.dropped.items()):
        say.line(f"  {number:,} dropped: {cause}")
    dropped = sum(found.dropped.values())
    if dropped > MAX_DROPPED * found.read:
        say.warning(
            f"{dropped / found.read:.0%} of the rows were dropped; data.max_length, data.on_long_row and "
            "data.on_bad_row decide about them"
        )


def _read_all(
    sources: Sequence[Source], data: Prompts, text: TextModel, seed: int, limit: int, group: str | None
) -> PromptSet:
    found = PromptSet()
    tokenizer = RowTokenizer(text.tokenizer, text.template, mask="last")
    for source in sources:
        for row, example in _examples(source, data, seed, found):
            _take(row, example, tokenizer, data, limit, group, found)
    if found.errors:
        raise DataError("\n".join(found.errors))
    for prompt in found.prompts:
        if max(prompt.ids) >= text.vocab_size:
            token = text.tokenizer.convert_ids_to_tokens(max(prompt.ids))
            raise DataError(
                f"{prompt.origin}: the prompt has the token '{token}', which the model does not know (its vocabulary "
                f"has {text.vocab_size:,}); take the tokenizer that belongs to the model, or another chat template"
            )
    if not found.prompts:
        causes = ", ".join(f"{number:,} {cause}" for cause, number in found.dropped.items())
        rows = "the only row was" if found.read == 1 else f"all {found.read:,} rows were"
        why = ""
        if found.shortest is not None:
            tokens, place = found.shortest
            way = "; raise 'data.max_length'" if limit == data.max_length else "; lower 'rollout.max_new_tokens'"
            why = f": {_room(data, limit)}, and the shortest of what is longer has {tokens:,} tokens ({place}){way}"
        raise DataError(f"data: {rows} dropped ({causes}); there is no prompt left{why}")
    return found


def _room(data: Prompts, limit: int) -> str:
    if limit == data.max_length:
        return f"data.max_length is {limit:,}"
    return f"the model has room for {limit:,} before an answer of 'rollout.max_new_tokens'"


def _examples(
    source: Source, data: Prompts, seed: int, found: PromptSet
) -> Iterator[tuple[Row | BadRow, Example | Skipped | DataError]]:
    """Rows with what they mean, or why they mean nothing."""
    format = source.format or data.format
    remarks: list[str] = []
    rows = list(source.read(seed, remarks.append))
    tolerant = data.on_bad_row == "drop"
    try:
        layout, _ = understood(rows, format, tolerant=tolerant, seed=seed)
    except DataError:
        if format is not None or not _has_prompt(rows):
            raise
        layout, _ = understood(rows, PromptFormat(), tolerant=tolerant, seed=seed)
        layout = replace(layout, reason="prompts without answers: the rows fit no other layout")
    found.understood_as.append("; ".join([f"{layout.format.name()} ({layout.reason})", *remarks]))
    for row in rows:
        yield row, understood_row(layout, row)


def _has_prompt(rows: Sequence[Row | BadRow]) -> bool:
    first = next((row for row in rows if isinstance(row, Row)), None)
    return first is not None and PromptFormat.name_in(first.values, "prompt") is not None


def _take(
    row: Row | BadRow,
    example: Example | Skipped | DataError,
    tokenizer: RowTokenizer,
    data: Prompts,
    limit: int,
    group: str | None,
    found: PromptSet,
) -> None:
    """Keep a row's prompt, or count why not."""
    found.read += 1
    if isinstance(example, Skipped):
        found.dropped[example.cause] += 1
        return
    try:
        if isinstance(example, DataError):
            raise example
        asked, reference = _asked(example)
        ids = tokenizer.prompt_ids(asked)
    except DataError as error:
        _refuse(found, row, str(error), "the row has no prompt", data.on_bad_row)
        return
    if not ids:
        _refuse(found, row, "the prompt has no tokens", "the row has no prompt", data.on_bad_row)
    elif len(ids) > limit:
        length = (len(ids), row.origin)
        found.shortest = min(found.shortest or length, length)
        words = f"a prompt of {len(ids):,} tokens, but {_room(data, limit)}; shorten it or set 'data.on_long_row: drop'"
        _refuse(found, row, words, TOO_LONG, data.on_long_row)
    else:
        values = row.values if isinstance(row, Row) else {}
        if group is not None and group not in values:
            raise DataError(f"{row.origin}: there is no column '{group}' to hold prompts out by")
        found.prompts.append(Prompt(ids, asked, values, reference, row.origin))
        found.groups.append(xxhash.xxh3_64_intdigest(repr(values[group]).encode()) if group else 0)


def _refuse(found: PromptSet, row: Row | BadRow, words: str, cause: str, policy: str) -> None:
    found.dropped[cause] += 1
    if policy == "error":
        found.errors.append(f"{row.origin}: {words}")
        if len(found.errors) == NAMED_FAULTS:
            raise DataError("\n".join([*found.errors, f"stopped after {NAMED_FAULTS} faulty rows"]))


def _asked(example: Example) -> tuple[Answered, str | None]:
    """What the policy is asked, and the row's own answer where it has one."""
    match example:
        case Preference():
            return _asked(example.chosen)
        case Feedback():
            return _asked(example.example)
        case Text():
            return PromptCompletion(example.text, ""), None
        case PromptCompletion():
            return PromptCompletion(example.prompt, ""), example.completion or None
        case Conversation():
            last = example.messages[-1] if example.messages[-1].role == "assistant" else None
            asked = example.messages[:-1] if last else example.messages
            if not asked:
                raise DataError("the conversation begins with its answer; nothing comes before it")
            if asked[-1].role == "user" and not asked[-1].content:
                raise DataError("the user's turn is empty; give a prompt or set 'data.on_bad_row: drop'")
            return replace(example, messages=asked), last.content if last else None
