"""How many rows a run has and how long they are, as far as that is known without tokenising anything."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftune.core.paths import shown

if TYPE_CHECKING:
    from ftune.recipes.ppo import PpoRecipe
    from ftune.recipes.runs.inputs import Inputs
    from ftune.recipes.runs.ppo_asked import Asked
    from ftune.recipes.training import TrainingRecipe

BYTES_A_TOKEN = 4
"""Of English text in UTF-8, about; only where nothing better is known."""

READ_BYTES = 1 << 26
"""Of a file of rows, lines are counted in so much of its beginning; the rest is taken to be like it."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows as sequences: what `ftune sft` trains on, answers for `ftune rm`, prompts for `ftune ppo`."""

    longest: int
    """Tokens of the longest one, or the most that the recipe lets it have."""
    said_by: str
    """Where that is from, in words."""
    count: int | None = None
    """Rows of an epoch; of `ftune rm` pairs or texts, of `ftune ppo` prompts."""
    tokens: int | None = None
    """Tokens of all of them together; of pairs, of one answer each."""
    counted: bool = True
    """Whether these are numbers of tokens that somebody has counted, not bounds and guesses."""
    lengths: tuple[tuple[int, int], ...] = ()
    """Tokens, and how many rows (both answers of a pair) have at most so many and more than the next number: the
    longest first."""

    @property
    def equal(self) -> bool:
        """Whether each is as long as the others."""
        return self.counted and self.count is not None and self.tokens == self.count * self.longest

    @property
    def mean(self) -> float:
        """Tokens of a row, on average; the longest where that is not known."""
        return self.tokens / self.count if self.tokens and self.count else float(self.longest)

    def most(self, rows: int) -> int:
        """Tokens that so many rows have together at most: those of the longest ones, as far as they are known."""
        total, left = 0, rows
        for tokens, count in self.lengths:
            taken = min(left, count)
            total, left = total + taken * min(tokens, self.longest), left - taken
        return total if self.lengths and self.counted else rows * self.longest


def rows_of_recipe(recipe: "TrainingRecipe | PpoRecipe", positions: int) -> Rows:
    """What an earlier run of the same rows has counted, else the most that `data.max_length` lets through.

    `positions` are the tokens that the model can read; 0 where nobody knows.
    """
    most = min(recipe.data.max_length, positions or recipe.data.max_length)
    return _recorded(recipe, most) or _guessed(recipe, most)


def rows_of_inputs(inputs: "Inputs") -> Rows:
    """Those that a run of `ftune sft` or `ftune rm` has prepared."""
    from collections import Counter

    lengths = inputs.train.lengths
    tokens, longest = int(lengths.sum()), int(lengths.max(initial=1))
    if inputs.train.is_preference:
        others = inputs.train.rejected().lengths
        tokens, longest = (tokens + int(others.sum())) // 2, max(longest, int(others.max(initial=1)))
    if inputs.stream is not None:
        most = inputs.stream.capacity or inputs.stream.rules.max_length
        if most is None:
            return Rows(longest, "the first rows of a stream")
        return Rows(most, "data.max_length, the worst case of a stream", counted=False)
    known = Counter(lengths.tolist())
    if inputs.train.is_preference:
        known += Counter(others.tolist())
    histogram = tuple(sorted(known.items(), reverse=True))
    return Rows(longest, "the rows themselves", len(lengths), tokens, lengths=histogram)


def rows_of_prompts(asked: "Asked") -> Rows:
    """Those that a run of `ftune ppo` has prepared."""
    lengths = [len(prompt.ids) for prompt in asked.train.prompts]
    return Rows(max(lengths, default=1), "the prompts themselves", len(lengths), sum(lengths))


def _recorded(recipe: "TrainingRecipe | PpoRecipe", most: int) -> Rows | None:
    """What the run in the output folder has counted, where it was of the same rows and the same model."""
    folder = Path(recipe.output_dir)
    if not (folder / "data.json").is_file():
        return None
    from ftune.report.run_record import dig

    told, data = json_object(folder / "recipe.resolved.json"), json_object(folder / "data.json")
    mine = recipe.resolved()
    same = all(told.get(key) == mine[key] for key in ("type", "data", "seed")) and all(
        dig(told, "model", key) == mine["model"][key] for key in ("path", "revision", "chat_template")
    )
    if not same or not isinstance(data.get("train"), dict) or _newer(recipe, folder / "data.json"):
        return None
    facts: dict[str, Any] = data["train"]
    counts: dict[str, Any] = facts["counts"] if isinstance(facts.get("counts"), dict) else {}
    longest = _number(counts.get("longest", facts.get("longest")))
    kept, tokens = _number(counts.get("kept", facts.get("prompts"))), _number(counts.get("tokens"))
    if longest is None:
        return None
    said_by = f"the rows, as {shown(folder / 'data.json')} has counted them"
    of_pairs = getattr(getattr(recipe, "head", None), "type", "") == "scalar"  # one answer of each has been counted
    return Rows(min(longest, most), said_by, kept, tokens, lengths=() if of_pairs else _bins(counts.get("lengths")))


def _bins(histogram: object) -> tuple[tuple[int, int], ...]:
    """Of a histogram as `ftune.data.counts` writes it: the most tokens that the rows of a bin can have, and how many.

    Empty where it is none.
    """
    bins = histogram.get("bins") if isinstance(histogram, dict) else None
    try:
        found = [(int(each["low"]), int(each["count"])) for each in bins or []]
    except (KeyError, TypeError, ValueError):
        return ()
    width = found[1][0] - found[0][0] if len(found) > 1 else 1
    return tuple((low + width - 1, count) for low, count in reversed(found))


def _guessed(recipe: "TrainingRecipe | PpoRecipe", most: int) -> Rows:
    """Lines of local JSON Lines files, whose tokens are guessed from their bytes; of other sources nothing."""
    rows = characters = 0
    for source in recipe.data.train:
        counted = _lines(Path(source.path))
        if counted is None:
            return Rows(most, "data.max_length, the worst case", counted=False)
        taken = min(counted[0], source.rows or counted[0])
        rows, characters = rows + taken, characters + counted[1] * taken // counted[0]
    held_out = recipe.data.validation
    if held_out is not None and held_out.source is None:
        left = max(1, rows - (held_out.count or round(rows * (held_out.fraction or 0.0))))
        rows, characters = left, characters * left // rows
    tokens = min(characters // BYTES_A_TOKEN, rows * most)
    told = f"data.max_length, the worst case; {rows:,} rows, taken to have a token in {BYTES_A_TOKEN} bytes"
    return Rows(most, told, rows, max(tokens, rows), counted=False)


def _lines(path: Path) -> tuple[int, int] | None:
    """Lines and bytes of a JSON Lines file; None for anything else."""
    if path.suffix != ".jsonl":
        return None
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(READ_BYTES)
    except OSError:
        return None
    lines = max(1, head.count(b"\n") + (not head.endswith(b"\n")))
    return (lines if size <= len(head) else round(lines * size / len(head))), size


def _newer(recipe: "TrainingRecipe | PpoRecipe", than: Path) -> bool:
    """Whether a local source has changed since; a folder's own time is taken for its files."""
    try:
        known = than.stat().st_mtime
        paths = [Path(source.path) for source in recipe.data.train]
        return any(path.stat().st_mtime > known for path in paths if path.exists())
    except OSError:
        return True


def json_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty where there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _number(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
