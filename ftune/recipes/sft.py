"""`ftune sft`: supervised fine-tuning on instructions, chats, completions or plain text."""

from typing import TYPE_CHECKING, Literal, Self

from pydantic import model_validator

from ftune.backends.base import Backend
from ftune.peft.base import Feature
from ftune.recipes.base import RunOptions
from ftune.recipes.data_section import Data
from ftune.recipes.speed_section import SftSpeed
from ftune.recipes.training import TrainingRecipe

if TYPE_CHECKING:
    from ftune.data.intake import Rules


class SftRecipe(TrainingRecipe):
    """A recipe of `ftune sft`."""

    type: Literal["sft"] = "sft"
    """The command."""

    data: Data
    """The rows."""

    speed: SftSpeed = SftSpeed()
    """What makes training fast."""

    def features(self) -> dict[Feature, tuple[str, bool]]:
        """Those of every recipe, and packing."""
        return {"packing": ("data.packing", self.data.packing), **super().features()}

    @model_validator(mode="after")
    def _stream_ends(self) -> Self:
        if self.data.streaming is not None and self.schedule.max_steps is None:
            raise ValueError("schedule.max_steps: a stream has no known end; say after how many steps to stop")
        return self

    @model_validator(mode="after")
    def _fp8_of_whole_models(self) -> Self:
        if self.speed.fp8 == "off":
            return self
        asked = f"speed.fp8: '{self.speed.fp8}'"
        if self.peft.type != "full":
            raise ValueError(
                f"{asked} is for weights that train themselves, and '{self.peft.type}' trains something else; use "
                "'peft: full', or 'off'"
            )
        if self.model.dtype not in ("auto", "bf16"):
            raise ValueError(f"{asked} gives its results in bf16; set 'model.dtype: bf16', or use 'off'")
        if self.backend.device == "cpu":
            raise ValueError(f"{asked} needs a GPU, and 'backend.device' is 'cpu'; use 'off'")
        return self

    def check_backend(self, backend: Backend) -> None:
        """Raises ValueError for what the recipe cannot do on a backend: FP8 with weights in parts, beside the rest."""
        super().check_backend(backend)
        if self.speed.fp8 != "off" and backend.shards():
            raise ValueError(
                f"speed.fp8: '{self.speed.fp8}' with 'backend: {backend.name}': a process has the weights in parts; "
                "use 'backend: ddp', or 'speed.fp8: off'"
            )

    def rules(self, positions: int | None) -> "Rules":
        """Those of the data section."""
        return self.data.rules(positions)

    def execute(self, options: RunOptions) -> None:
        """Train, and leave the result in the run folder.

        Raises StoppedError when a signal ended it early, and the errors of whatever went wrong.
        """
        from ftune.recipes.runs.sft import run_sft

        run_sft(self, options)
