"""An audit's report for a terminal: counts, lengths, balance, findings, verdict."""

import textwrap
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ftune.core.several import several
from ftune.data.audit.report import Balance, Finding, Lengths, Report

if TYPE_CHECKING:
    from rich.text import Text

SHOWN_PLACES = 3
STYLES = {"error": "bold red", "warn": "yellow", "info": "dim"}


class Line(NamedTuple):
    """One line with its style."""

    text: str
    style: str = ""


def render(report: Report, *, color: bool = True, width: int = 80, blocks: bool = True) -> "Text":
    """The whole report; its last line is the verdict. `blocks` False draws bars in ASCII."""
    from rich.text import Text

    text = Text()
    for line in lines(report, width, "█" if blocks else "#"):
        text.append(line.text + "\n", line.style if color else "")
    return text


def lines(report: Report, width: int = 80, block: str = "█") -> Iterator[Line]:
    """The report line by line, none longer than `width` but for names of files."""
    yield from _counts(report, width)
    if report.lengths:
        yield from _lengths(report.lengths, width, block)
    for balance in report.balances:
        yield from _balance(balance, width, block)
    if report.findings:
        yield Line("")
    for finding in report.findings:
        yield from _finding(finding, width)
    for note in report.notes:
        yield from _wrapped(f"note: {note}", width, "      ")
    yield Line("")
    yield Line(report.verdict, "bold yellow" if report.strict else "bold green")


def _counts(report: Report, width: int) -> Iterator[Line]:
    for part in report.parts:
        tokens = f"; {part.tokens:,} tokens, {part.trained_tokens:,} of them trained" if part.tokens else ""
        yield from _wrapped(f"{part.part}: {several(part.read, 'row')} read, {part.kept:,} kept{tokens}", width, "  ")
    for dropped in report.dropped:
        places = _places(dropped.places, dropped.count)
        yield from _wrapped(f"{dropped.count:,} dropped: {dropped.cause} ({places})", width, "  ")


def _lengths(lengths: Lengths, width: int, block: str) -> Iterator[Line]:
    facts = (
        f"{lengths.unit} a row: {lengths.shortest:,} at least, {lengths.median:,} in the middle, 99 % up to "
        f"{lengths.p99:,}, {lengths.longest:,} at most ({lengths.longest_place})"
    )
    yield Line("")
    yield from _wrapped(facts, width, "  ")
    yield from _bars([(f"{one.low:,}-{one.high:,}", one.count) for one in lengths.bins], width, block, right=True)


def _balance(balance: Balance, width: int, block: str) -> Iterator[Line]:
    yield Line("")
    yield Line(f"{balance.name}:")
    yield from _bars(balance.shares, width, block)


def _bars(rows: Sequence[tuple[str, int]], width: int, block: str, *, right: bool = False) -> Iterator[Line]:
    """A bar for each row, the longest as long as there is room; any count but 0 is seen."""
    total, most = sum(count for _, count in rows), max(count for _, count in rows)
    margin, digits = max(len(name) for name, _ in rows), len(f"{most:,}")
    room = max(width - margin - digits - 14, 8)
    for name, count in rows:
        bar = block * max(round(room * count / most), count > 0)
        padded = name.rjust(margin) if right else name.ljust(margin)
        yield Line(f"  {padded}  {count:>{digits},}  {100 * count / total:4.1f} %  {bar}".rstrip())


def _finding(finding: Finding, width: int) -> Iterator[Line]:
    yield Line(f"{finding.severity:<5} {finding.what}: {finding.count:,}", STYLES[finding.severity])
    if finding.places:
        yield from _wrapped(f"      {_places(finding.places, finding.count)}", width, "      ")
    yield from _wrapped(f"      {finding.todo}", width, "      ")


def _places(places: Sequence[str], count: int) -> str:
    """The first places in words; a file is named once: `data.json:7 (as :2), :9 (as :3), ...`."""
    listed = ", ".join(places[:SHOWN_PLACES]) + (", ..." if count > SHOWN_PLACES else "")
    file = listed.split(" (as ")[0].split(", ")[0].rpartition(":")[0]
    return file + listed[len(file) :].replace(f" {file}:", " :").replace(f"(as {file}:", "(as :") if file else listed


def _wrapped(text: str, width: int, indent: str) -> Iterator[Line]:
    folded = textwrap.wrap(text, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    return (Line(line) for line in folded)
