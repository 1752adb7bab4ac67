"""`ftune eval`: what a run's model does on rows that training never saw, before and after."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from ftune.core.section import Location
from ftune.recipes.base import Recipe, RunOptions
from ftune.recipes.data_section import Source, bare_path
from ftune.report.run_folder import read_command, read_state


class EvalRecipe(Recipe):
    """A recipe of `ftune eval`."""

    type: Literal["eval"] = "eval"
    """The command."""

    run: str
    """Folder of a finished run."""

    rows: Annotated[Source | None, BeforeValidator(bare_path, json_schema_input_type=str | Source | None)] = None
    """Rows with the answers that are wanted; by default the run's own validation source."""

    max_new_tokens: Annotated[int, Field(ge=1)] = 256
    """Longest completion in tokens."""

    micro_batch_size: Annotated[int, Field(ge=1)] = 16
    """Rows that are completed at once; it does not change the result."""

    samples: Annotated[int, Field(ge=0)] = 2
    """Rows shown below the table."""

    def faults(self) -> Iterator[tuple[Location, str]]:
        """A run that is not there or not finished."""
        state = read_state(Path(self.run))
        if not state:
            yield ("run",), f"'{self.run}' is no run of ftune; give the folder that 'ftune sft' has written"
        elif state != "done":
            yield ("run",), f"the run in '{self.run}' is {state}, not done; finish it with --resume"
        elif (command := read_command(Path(self.run))) not in ("sft", ""):
            yield (
                ("run",),
                f"'{self.run}' is a run of 'ftune {command}', whose own report says what it reached (README.md there); "
                "'ftune eval' takes runs of 'ftune sft'",
            )

    def execute(self, options: RunOptions) -> None:
        """Generate, score, print the table and write it to the run's folder."""
        from ftune.recipes.runs.eval import run_eval

        run_eval(self)
