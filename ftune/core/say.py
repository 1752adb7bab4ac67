"""What ftune says: progress and warnings on stderr, results on stdout."""

import os
import sys
from typing import TextIO

from rich.console import Console


class Say:
    """The voice of a run. Colour and width follow the terminal, NO_COLOR and TERM."""

    def __init__(self) -> None:
        plain = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
        self.console = Console(file=sys.stderr, highlight=False, no_color=plain or None, soft_wrap=True)
        self.out = Console(file=sys.stdout, highlight=False, no_color=plain or None, soft_wrap=True)
        self._copy: TextIO | None = None

    def keep(self, file: TextIO) -> None:
        """Write everything that is said into `file` too."""
        self._copy = file

    def line(self, text: str) -> None:
        """One line of progress."""
        self.console.print(text, markup=False)
        self._kept(text)

    def warning(self, text: str) -> None:
        """Something that a person should know, though the run goes on."""
        self.console.print(f"warning: {text}", style="yellow", markup=False)
        self._kept(f"warning: {text}")

    def result(self, text: str) -> None:
        """A line of the result."""
        self.out.print(text, markup=False)
        self._kept(text)

    def _kept(self, text: str) -> None:
        if self._copy is not None:
            print(text, file=self._copy)
