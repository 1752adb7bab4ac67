"""What an audit found, as plain data."""

from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

Part: TypeAlias = Literal["train", "held-out"]
PARTS: tuple[Part, ...] = ("train", "held-out")

Severity: TypeAlias = Literal["error", "warn", "info"]
SEVERITIES: tuple[Severity, ...] = ("error", "warn", "info")


@dataclass(frozen=True, slots=True)
class Finding:
    """One kind of thing that was found. It names places, never the text: rows may hold secrets."""

    id: str
    severity: Severity
    count: int
    what: str
    """In words, to be followed by the count."""
    todo: str
    """One sentence: what to do about it."""
    places: tuple[str, ...] = ()
    """The first few, as `file:line`; of a duplicate also the row that it repeats."""


@dataclass(frozen=True, slots=True)
class PartCounts:
    """The rows of one part: `read` = `kept` + what was dropped. Tokens are those of kept rows, before any cut."""

    part: Part
    read: int
    kept: int
    tokens: int
    trained_tokens: int


@dataclass(frozen=True, slots=True)
class Dropped:
    """Rows that were left out for one cause."""

    cause: str
    count: int
    places: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Bin:
    """Rows of `low` to `high` tokens, both included."""

    low: int
    high: int
    count: int


@dataclass(frozen=True, slots=True)
class Lengths:
    """How long rows are, before any cut; also the rows that were dropped as too long."""

    unit: Literal["tokens", "characters"]
    bins: tuple[Bin, ...]
    shortest: int
    median: int
    p99: int
    longest: int
    longest_place: str


@dataclass(frozen=True, slots=True)
class Balance:
    """How often each of a few things occurs, the most frequent first."""

    name: str
    shares: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Report:
    """All that an audit found. `findings` are sorted by severity, then by count."""

    parts: tuple[PartCounts, ...]
    dropped: tuple[Dropped, ...]
    lengths: Lengths | None
    """None without a kept row."""
    balances: tuple[Balance, ...]
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    """What the audit did not look at, in words."""

    @property
    def strict(self) -> int:
        """Findings that count under `--strict`, which exits with 1 when there are any: warn and error, never info."""
        return sum(finding.severity != "info" for finding in self.findings)

    @property
    def verdict(self) -> str:
        """`clean` or `3 findings`; info does not count."""
        return "clean" if not self.strict else f"{self.strict} finding{'s' if self.strict > 1 else ''}"

    def as_dict(self) -> dict[str, Any]:
        """For JSON and for the page."""
        return {**asdict(self), "strict": self.strict, "verdict": self.verdict}
