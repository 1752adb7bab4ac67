"""The result of a run, loaded anew from the disk and held against the model in memory."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ftune.core.errors import ModelError
from ftune.core.paths import shown
from ftune.models.dtype import torch_name

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from ftune.recipes.runs.training import Run, Trained
    from ftune.trainers.proof import Computed


@dataclass(frozen=True, slots=True)
class Proof:
    """What the model in memory computes."""

    run: "Run"
    trained: "Trained"
    rows: list[list[int]]
    before: "Computed"

    @classmethod
    def of(cls, run: "Run", trained: "Trained") -> "Proof":
        """All processes call it: the model may be split over them."""
        from ftune.trainers.proof import ROWS, computed

        inputs = run.inputs
        rows = [inputs.train.ids(index) for index in range(min(ROWS, len(inputs.train)))]
        return cls(run, trained, rows, computed(trained.model, rows, _dtype(run)))

    def check(self, result: Path) -> None:
        """Load `result` as its users will, and compare.

        Raises ModelError where it is not what was trained, and keeps it under another name.
        """
        from ftune.trainers.proof import check_same, computed, room_for

        device = room_for(self.trained.model)
        if device is None:
            self.run.say.warning(f"{shown(result)} was not loaded again: there is no room for a second model")
            return
        try:
            difference = check_same(
                self.before, computed(self._load(result, device), self.rows, _dtype(self.run)), _dtype(self.run)
            )
        except ModelError as error:
            aside = result.with_name(f"{result.name}.failed")
            result.replace(aside)
            raise ModelError(f"{shown(aside)}: {error}; the checkpoints are kept") from None
        self.run.events.write("proof", difference=difference)
        self.run.say.line(
            f"  ok: loaded again, the result computes what was trained (logits differ by {difference:.1e})"
        )

    def _load(self, result: Path, device: str) -> "PreTrainedModel":
        run, recipe, classes = self.run, self.run.recipe, self.trained.classes
        weights = recipe.weights(run.place.dtype)
        if recipe.peft.library == "transformers":
            from ftune.models.load import load_model

            model = load_model(str(result.resolve()), dtype=torch_name(weights), device=device, classes=classes)
        else:
            from ftune.peft.adapters import load_adapter

            model = load_adapter(recipe.model.load(run.inputs.located, weights, device, classes), result)
        model.config.get_text_config().pad_token_id = run.inputs.tokenizer.pad_token_id  # where a head reads its score
        return model


def _dtype(run: "Run") -> "torch.dtype":
    import torch

    dtype: torch.dtype = getattr(torch, torch_name(run.place.dtype))
    return dtype
