"""What happened to the rows: counts that add up."""

from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any


@dataclass(slots=True)
class Counts:
    """Rows and tokens of one preparation: `read` = `kept` + the sum of `dropped`."""

    read: int = 0
    kept: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    """Rows that were left out, by cause."""
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
    tokens: int = 0
    trained_tokens: int = 0
    trained_min: int = 0
    """The fewest trained tokens of a kept row; then the median and the most."""
    trained_median: float = 0
    trained_max: int = 0
    longest: int = 0
    """Tokens of the longest row, before any cut."""
    longest_row: str = ""
    """Where it came from."""

    def drop(self, cause: str) -> None:
        """Count one row that was left out."""
        self.dropped[cause] = self.dropped.get(cause, 0) + 1

    def measure(self, lengths: list[int], trained: list[int]) -> None:
        """Fill in the token counts of the kept rows."""
        self.kept, self.tokens, self.trained_tokens = len(lengths), sum(lengths), sum(trained)
        if trained:
            self.trained_min, self.trained_median, self.trained_max = min(trained), median(trained), max(trained)

    def lines(self) -> list[str]:
        """The counts in words, one fact a line, zeros left out."""
        lines = [f"{self.read:,} rows read, {self.kept:,} kept"]
        lines += [f"{number:,} dropped: {cause}" for cause, number in sorted(self.dropped.items())]
        share = 100 * self.trained_tokens / self.tokens if self.tokens else 0
        lines.append(f"{self.tokens:,} tokens, {self.trained_tokens:,} of them trained ({share:.0f} %)")
        lines.append(
            f"trained tokens a row: {self.trained_min:,} at least, {self.trained_median:,.0f} in the middle, "
            f"{self.trained_max:,} at most; longest row {self.longest:,} tokens ({self.longest_row})"
        )
        remarks = {
            "rows cut to max_length": self.truncated,
            "rows lost trained tokens by that": self.truncated_completions,
            "rows lost a stop token by that": self.truncated_stop_tokens,
            "answers are empty": self.empty_completions,
            "rows hold control tokens in their text, encoded as plain text": self.control_text,
        }
        return lines + [f"{number:,} {words}" for words, number in remarks.items() if number]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)
