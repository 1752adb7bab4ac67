"""The rows of a recipe as tokens: prepared once and cached, or streamed."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ftune.core.errors import DataError
from ftune.data.cache import cache_key, cached, tokenizer_fingerprint
from ftune.data.checks import Checker
from ftune.data.encode import FIRST, Encoder, understood
from ftune.data.intake import Rules
from ftune.data.mix import chained, mixed
from ftune.data.prepare import prepare
from ftune.data.prepared import Part, Prepared
from ftune.data.split import split
from ftune.data.stream import Stream
from ftune.data.template import Template
from ftune.data.tokenize import RowTokenizer
from ftune.recipes.data_section import Data, RowsSection, Source

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SAMPLE = 1000
"""So many rows of a streamed source are prepared to be looked at before training starts."""

Progress = Callable[[str, int], None]
"""Called with a path and the number of its rows read so far."""


@dataclass(frozen=True, slots=True)
class TextModel:
    """What turns rows into tokens."""

    tokenizer: "PreTrainedTokenizerBase"
    template: Template | None
    vocab_size: int
    """The model's."""


def load_rows(
    data: RowsSection, text: TextModel, rules: Rules, *, seed: int, progress: Progress | None = None
) -> tuple[Prepared, Prepared | None]:
    """Training sequences and held-out ones, made now or found in the cache; of a stream, its first rows.

    Raises DataError for what cannot be trained on.
    """
    make = _sample if isinstance(data, Data) and data.streaming is not None else _part
    parts = [make(source, data, text, rules, seed, progress) for source in data.train]
    every, held_out = chained(parts), None
    rows = every.rows_of_parts()
    if data.validation is not None and data.validation.source is not None:
        held_out = chained([_part(data.validation.source, data, text, rules, seed, progress)])
    elif data.validation is not None:
        formats = [source.format or data.format for source in data.train]
        shown = np.array([format is not None and format.takes_examples for format in formats])
        try:
            train, out = split(
                every.keys,
                data.validation.fraction or data.validation.count or 0,
                seed,
                groups=every.row_groups() if rules.answers == "pairs" else every.groups if rules.group else None,
                stay=shown[every.which] & (every.numbers < FIRST),  # rows that stand in the prompts of others
            )
        except DataError as error:
            causes = "".join(f"; {number:,} dropped: {cause}" for cause, number in every.counts.dropped.items())
            raise DataError(f"data.validation: {error}{causes}") from None
        rows, held_out = every.at(train).rows_of_parts(), every.at(out)
    return mixed(parts, rows, [source.weight for source in data.train], data.mix, seed), held_out


def open_stream(data: Data, text: TextModel, rules: Rules, *, seed: int) -> Stream:
    """The training rows as a stream. Raises DataError where a source has no rows or no known layout."""
    if data.streaming is None:
        raise ValueError("this recipe does not stream")
    tokenizer, encoders = RowTokenizer(text.tokenizer, text.template, mask=rules.mask), []
    for source in data.train:
        first = islice(source.read(seed, streaming=True), FIRST)
        layout, _ = understood(first, source.format or data.format, tolerant=rules.on_bad_row == "drop", seed=seed)
        encoders.append(Encoder(layout, tokenizer, rules.answers, rules.classes))
    return Stream(
        sources=[partial(source.read, seed, streaming=True) for source in data.train],
        encoders=encoders,
        weights=[source.weight for source in data.train],
        mix=data.mix,
        rules=rules,
        checker=Checker(text.tokenizer, text.vocab_size),
        buffer=data.streaming.shuffle_buffer,
        seed=seed,
        capacity=data.max_length if data.packing else None,
    )


def stream_fingerprint(data: Data, seed: int) -> str:
    """Equal for the same sources with the same content: what a stream is known by."""
    return cache_key(
        {"sources": [source.identity(seed, streaming=True) for source in data.train], "mix": data.mix.model_dump()}
    )


def _part(
    source: Source, data: RowsSection, text: TextModel, rules: Rules, seed: int, progress: Progress | None
) -> Part:
    """A whole source, through the cache."""
    format = source.format or data.format
    key = cache_key(
        {
            "source": source.identity(seed),
            "format": format and format.model_dump(mode="json"),
            "seed": seed if format is not None and format.seeded else None,
            "tokenizer": tokenizer_fingerprint(text.tokenizer),
            "template": text.template and text.template.sha256,
            "rules": asdict(rules),
            "vocab_size": text.vocab_size,
        }
    )

    def make(folder: Path) -> Part:
        remarks: list[str] = []
        part = prepare(
            source.read(seed, remarks.append),
            format,
            text.tokenizer,
            text.template,
            rules,
            folder=folder,
            vocab_size=text.vocab_size,
            num_proc=data.num_proc,
            seed=seed,
            progress=partial(progress, source.path) if progress else None,
        )
        return replace(part, reason="; ".join([part.reason, *remarks]))

    return cached(key, make)


def _sample(
    source: Source, data: RowsSection, text: TextModel, rules: Rules, seed: int, progress: Progress | None
) -> Part:
    """The first rows of a source, in memory."""
    return prepare(
        islice(source.read(seed, streaming=True), SAMPLE),
        source.format or data.format,
        text.tokenizer,
        text.template,
        rules,
        vocab_size=text.vocab_size,
        seed=seed,
        progress=partial(progress, source.path) if progress else None,
    )
