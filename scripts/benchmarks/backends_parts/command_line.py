"""The command line of benchmarks that measure settings one by one and keep each result."""

import argparse
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path


def parser_of(document: str | None, names: Sequence[str], *, limit_s: float) -> argparse.ArgumentParser:
    """What all of them take; `limit_s` is the time that a setting may take by default."""
    parser = argparse.ArgumentParser(description=document, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", help=f"names or patterns; all by default: {', '.join(names)}")
    parser.add_argument("--folder", type=Path, help="where models and rows lie, or are made, and where runs go")
    parser.add_argument("--results", type=Path, required=True, help="JSON lines; appended to")
    parser.add_argument("--limit", type=float, default=limit_s, help="seconds that a setting may take")
    parser.add_argument("--budget", type=float, default=1e6, help="seconds after which no setting starts")
    parser.add_argument("--retry", action="store_true", help="run settings again that failed")
    parser.add_argument("--tiny", action="store_true", help="models of a try-out size")
    parser.add_argument("--table", action="store_true", help="show what --results has, and measure nothing")
    return parser


def parsed(parser: argparse.ArgumentParser, names: Sequence[str]) -> argparse.Namespace:
    """What was given. Ends the program for settings that there are not, and without a folder to measure in."""
    given = parser.parse_args()
    if unknown := [pattern for pattern in given.settings if not any(fnmatch(name, pattern) for name in names)]:
        parser.error(f"unknown settings: {', '.join(unknown)}; there are {', '.join(names)}")
    if not (given.table or given.folder):
        parser.error("--folder is needed")
    given.settings = given.settings or ["*"]
    return given
