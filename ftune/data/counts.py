"""What happened to the rows: counts that add up."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from itertools import count
from statistics import median
from typing import Any

from ftune.core.several import several

NAMED_FAULTS = 10
MOST_BINS = 20


@dataclass(slots=True)
class Counts:
    """Rows and tokens of one preparation.

    Of one source, `read` = `kept` - `pieces` + the sum of `dropped`; weights repeat or leave out rows after that.
    """

    read: int = 0
    kept: int = 0
    """Sequences to train on."""
    pieces: int = 0
    """How many more sequences than rows there are, because long texts were split and rankings became pairs."""
    dropped: dict[str, int] = field(default_factory=dict)
    """Rows that were left out, by cause."""
    faults: list[str] = field(default_factory=list)
    """The first ten rows that are at fault, as `file:line: cause`, where such rows are dropped."""
    truncated: int = 0
    """Kept rows that were cut to `max_length`."""
    truncated_completions: int = 0
    """Those among them that lost trained tokens."""
    truncated_stop_tokens: int = 0
    """Those among them that lost the end of a trained answer, so its stop token too."""
    empty_completions: int = 0
    """Answers of kept rows that hold nothing but the stop token."""
    control_text: int = 0
    """Kept rows whose text held control tokens, which were encoded as plain text."""
    tools_as_text: int = 0
    """Kept rows whose tools were written as plain text, because the chat template has no place for them."""
    tokens: int = 0
    trained_tokens: int = 0
    trained_min: int = 0
    """The fewest trained tokens of a kept row; then the median and the most."""
    trained_median: float = 0
    trained_max: int = 0
    lengths: dict[str, Any] = field(default_factory=dict)
    """The histogram of tokens a kept row: `{"unit": "tokens", "bins": [{"low", "count"}, ...]}`, the bins equally wide
    and without a gap."""
    longest: int = 0
    """Tokens of the longest row, before any cut."""
    longest_row: str = ""
    """Where it came from."""

    @classmethod
    def sum(cls, parts: Sequence["Counts"]) -> "Counts":
        """The counts of several sources as one."""
        total = cls()
        for part in parts:
            for item in fields(cls):
                value = getattr(part, item.name)
                if isinstance(value, int) and item.name != "longest":
                    setattr(total, item.name, getattr(total, item.name) + value)
            for cause, number in part.dropped.items():
                total.drop(cause, number)
            total.faults = [*total.faults, *part.faults][:NAMED_FAULTS]
            if part.longest > total.longest:
                total.longest, total.longest_row = part.longest, part.longest_row
        return total

    def drop(self, cause: str, number: int = 1) -> None:
        """Count rows that were left out."""
        self.dropped[cause] = self.dropped.get(cause, 0) + number

    def measure(self, lengths: list[int], trained: list[int]) -> None:
        """Fill in the token counts of the kept rows."""
        self.kept, self.tokens, self.trained_tokens = len(lengths), sum(lengths), sum(trained)
        if trained:
            self.trained_min, self.trained_median, self.trained_max = min(trained), median(trained), max(trained)
            self.lengths = {"unit": "tokens", "bins": bins_of(lengths)}

    def lines(self) -> list[str]:
        """The counts in words, one fact a line, zeros left out."""
        lines = [f"{several(self.read, 'row')} read, {self.kept:,} {'sequences made' if self.pieces else 'kept'}"]
        lines += [f"{number:,} dropped: {cause}" for cause, number in sorted(self.dropped.items())]
        share = 100 * self.trained_tokens / self.tokens if self.tokens else 0
        lines.append(f"{self.tokens:,} tokens, {self.trained_tokens:,} of them trained ({share:.0f} %)")
        lines.append(
            f"trained tokens a row: {self.trained_min:,} at least, {self.trained_median:,.0f} in the middle, "
            f"{self.trained_max:,} at most; longest row {self.longest:,} tokens ({self.longest_row})"
        )
        remarks = [
            (self.truncated, "row", "rows", "cut to max_length"),
            (self.truncated_completions, "row", "rows", "lost trained tokens by that"),
            (self.truncated_stop_tokens, "row", "rows", "lost a stop token by that"),
            (self.empty_completions, "answer is", "answers are", "empty"),
            (self.control_text, "row holds", "rows hold", "control tokens in the text, encoded as plain text"),
            (self.tools_as_text, "row has", "rows have", "tools as text, for which the chat template has no place"),
        ]
        return lines + [f"{several(count, one, many)} {words}" for count, one, many, words in remarks if count]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def bins_of(lengths: Sequence[int]) -> list[dict[str, int]]:
    """How many lengths are from each `low` up to the next one: at most `MOST_BINS` bins, as wide as 1, 2, 5, 10, ..."""
    shortest, longest = min(lengths), max(lengths)
    widths = (factor * 10**power for power in count() for factor in (1, 2, 5))
    width = next(width for width in widths if longest // width - shortest // width < MOST_BINS)
    counted = Counter(length // width for length in lengths)
    return [{"low": place * width, "count": counted[place]} for place in range(shortest // width, longest // width + 1)]
