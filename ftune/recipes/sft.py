"""`ftune sft`: supervised fine-tuning on instructions, chats, completions or plain text."""

from typing import TYPE_CHECKING, Literal, Self

from pydantic import model_validator

from ftune.peft.base import Feature
from ftune.recipes.base import RunOptions
from ftune.recipes.data_section import Data
from ftune.recipes.speed_section import Speed
from ftune.recipes.training import TrainingRecipe

if TYPE_CHECKING:
    from ftune.data.intake import Rules


class SftRecipe(TrainingRecipe):
    """A recipe of `ftune sft`."""

    type: Literal["sft"] = "sft"
    """The command."""

    data: Data
    """The rows."""

    speed: Speed = Speed()
    """What makes training fast without changing its result."""

    def features(self) -> dict[Feature, tuple[str, bool]]:
        """Those of every recipe, and packing."""
        return {"packing": ("data.packing", self.data.packing), **super().features()}

    @model_validator(mode="after")
    def _stream_ends(self) -> Self:
        if self.data.streaming is not None and self.schedule.max_steps is None:
            raise ValueError("schedule.max_steps: a stream has no known end; say after how many steps to stop")
        return self

    def rules(self, positions: int | None) -> "Rules":
        """Those of the data section."""
        return self.data.rules(positions)

    def execute(self, options: RunOptions) -> None:
        """Train, and leave the result in the run folder.

        Raises StoppedError when a signal ended it early, and the errors of whatever went wrong.
        """
        from ftune.recipes.runs.sft import run_sft

        run_sft(self, options)
