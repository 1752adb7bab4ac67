"""The rows that a merged model is tried on: those that its run held out, or short texts."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ftune.core.errors import FtuneError, ModelError
from ftune.core.say import Say
from ftune.merge.sources import Found
from ftune.recipes.load import load_resolved
from ftune.recipes.training import TrainingRecipe

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ftune.data.prepared import Prepared

IGNORED = -100

TEXTS = (
    "The harbour was quiet before the storm came in from the west.",
    "Write a short poem about a clock that runs backwards.",
    "What is the capital of Portugal, and which river runs through it?",
    "def median(values: list[float]) -> float:\n    ordered = sorted(values)\n",
    "In 1905 four papers changed what was known about light and time.",
    "Translate into French: the library closes at six in the evening.",
    "A train leaves at 9:40 and takes 2 hours and 35 minutes. When does it arrive?",
    "Dear colleagues, thank you for coming to this morning's meeting.",
)
"""What a model is tried on whose run's rows are not here."""


@dataclass(slots=True)
class Rows:
    """Rows of token ids, and their labels where the run's own rows are here."""

    tokenizer: "PreTrainedTokenizerBase"
    words: str
    """What they are, for people."""
    held_out: "Prepared | None" = None
    texts: list[list[int]] = field(default_factory=list)

    def ids(self, count: int, max_length: int) -> list[list[int]]:
        """The first rows, each cut to `max_length` tokens."""
        if self.held_out is None:
            return [row[:max_length] for row in self.texts[:count]]
        return [self.held_out.ids(index)[:max_length] for index in range(min(count, len(self.held_out)))]

    def prompts(self, count: int, max_length: int) -> list[list[int]]:
        """What comes before the first answer of each row; half of a row that is trained from its start."""
        if self.held_out is None:
            return self.ids(count, max_length)
        found = []
        for index in range(min(count, len(self.held_out))):
            ids, labels = self.held_out.ids(index), self.held_out.labels(index)
            start = next((place for place, label in enumerate(labels) if label != IGNORED), len(ids))
            found.append(ids[: start if start > 1 else max(1, len(ids) // 2)][-max_length:])
        return found

    def labelled(self, count: int) -> list[tuple[list[int], list[int]]]:
        """The first rows with their labels; none where the run's rows are not here."""
        rows = self.held_out
        return [] if rows is None else [(rows.ids(n), rows.labels(n)) for n in range(min(count, len(rows)))]

    @property
    def stops(self) -> list[int]:
        """The tokens that answers were trained to end with, or the tokenizer's own."""
        ends: list[int] = []
        for ids, labels in self.labelled(8):
            if labels[-1] != IGNORED:
                ends.append(ids[-1])
            else:  # a template may go on after the last answer, as with a line break
                ends += [label for label in reversed(labels) if label != IGNORED][:1]
        if ends and len(set(ends)) == 1 and self._is_special(ends[0]):
            return [ends[0]]
        return [] if self.tokenizer.eos_token_id is None else [int(self.tokenizer.eos_token_id)]

    def _is_special(self, token: int) -> bool:
        return token in self.tokenizer.added_tokens_decoder


def rows_of(sources: Sequence[Found], located: str, say: Say) -> Rows:
    """Held-out rows of the run of the first source, else its training rows, else short texts."""
    from ftune.models.load import load_tokenizer

    source = sources[0]
    folder = Path(source.folder)
    own = folder.is_dir() and (folder / "tokenizer_config.json").is_file()
    place = str(folder.resolve()) if own else located
    try:
        tokenizer = load_tokenizer(place)
    except ModelError:
        raise ModelError(
            f"verify: {place}: holds no tokenizer that can be loaded to try the model on texts; put one there, or "
            "leave the proof out with --no-verify"
        ) from None
    if source.run is not None:
        try:
            return _of_run(source.run, tokenizer, say)
        except FtuneError as error:
            say.warning(f"the rows of {source.path} are not here ({str(error).splitlines()[0]}); short texts are used")
    texts: list[list[int]] = tokenizer(list(TEXTS))["input_ids"]
    return Rows(tokenizer, "short texts", texts=texts)


def _of_run(run: Path, tokenizer: "PreTrainedTokenizerBase", say: Say) -> Rows:
    from ftune.recipes.runs.inputs import load_inputs
    from ftune.report.run_folder import read_command

    recipe = load_resolved(read_command(run), run / "recipe.resolved.json")
    if not isinstance(recipe, TrainingRecipe):
        texts: list[list[int]] = tokenizer(list(TEXTS))["input_ids"]
        return Rows(tokenizer, "short texts", texts=texts)
    inputs = load_inputs(recipe, say)
    rows = inputs.validation or inputs.train
    return Rows(tokenizer, "held-out rows" if inputs.validation else "training rows", held_out=rows)
