"""`ftune rm`: a reward model or a classifier that scores texts."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from ftune.core.section import Section
from ftune.peft.base import Feature
from ftune.recipes.base import RunOptions
from ftune.recipes.data_section import RowsSection
from ftune.recipes.training import TrainingRecipe

if TYPE_CHECKING:
    from ftune.data.intake import Rules

OF_SFT = {
    "mask": "a score is read at the end of a whole row, so there is nothing to mask",
    "packing": "a score is read at the end of each row, so rows are not packed",
    "on_preference": "both answers are trained on",
    "streaming": "pairs of one prompt are kept together, which needs all rows at hand; 'rows: N' takes a part of them",
}
"""Keys of `ftune sft`'s data section that mean nothing here, and why."""


class JudgedRows(RowsSection):
    """Rows with a verdict: a chosen and a rejected answer, ranked answers, or a text and its class."""

    @model_validator(mode="before")
    @classmethod
    def _no_key_of_sft(cls, value: Any) -> Any:
        for key, reason in OF_SFT.items():
            if isinstance(value, dict) and key in value:
                raise ValueError(f"{key}: {reason}; remove it")
        return value


class ScalarHead(Section):
    """One number a row: the reward."""

    type: Literal["scalar"] = "scalar"
    """One number a row, from pairs of answers."""


class ClassifierHead(Section):
    """One number a class; that of the wanted class is the reward."""

    type: Literal["classifier"] = "classifier"
    """One number a class, from texts with their classes."""

    labels: Annotated[list[str], Field(min_length=2)] | None = None
    """Names of the classes in the order of the head's outputs; by default those of the rows' format."""

    positive_class: str
    """The class whose logit is the reward."""

    @model_validator(mode="after")
    def _known(self) -> Self:
        if self.labels is not None and len(set(self.labels)) < len(self.labels):
            raise ValueError("labels: a class is named twice")
        if self.labels is not None and self.positive_class not in self.labels:
            raise ValueError(f"positive_class: '{self.positive_class}' is not among 'labels': {', '.join(self.labels)}")
        return self


def _bare_name(value: object) -> object:
    return {"type": value} if isinstance(value, str) else value


Head = Annotated[ScalarHead | ClassifierHead, Field(discriminator="type"), BeforeValidator(_bare_name)]


class RmRecipe(TrainingRecipe):
    """A recipe of `ftune rm`."""

    arguments_class: ClassVar[str] = "RewardConfig"
    managed_args: ClassVar[Mapping[str, str]] = {
        "center_rewards_coefficient": "center",
        "label_smoothing_factor": "label_smoothing",
    }

    type: Literal["rm"] = "rm"
    """The command."""

    data: JudgedRows
    """The rows."""

    head: Head = ScalarHead()
    """What is put on the model: one number for rewards from pairs (`scalar`), or a `classifier`."""

    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """Share of the verdicts that are taken to be wrong: of a pair, that the rejected answer is the better one; of a
    class, that it is any of them."""

    center: Annotated[float, Field(ge=0)] = 0.0
    """Coefficient of (score of the chosen + score of the rejected)^2, which keeps scores around 0 (arXiv:2312.09244,
    equation 2, proposes 0.01)."""

    margin: bool = False
    """Ask of the scores that they differ by the row's margin, or by the difference of its ratings (Llama 2,
    arXiv:2307.09288, equation 2); rows without one have the margin 0."""

    @model_validator(mode="after")
    def _of_pairs(self) -> Self:
        if self.head.type == "classifier":
            for key, given in (("center", self.center), ("margin", self.margin)):
                if given:
                    raise ValueError(f"{key}: it is about pairs of answers, and a classifier has none; remove it")
        return self

    def features(self) -> dict[Feature, tuple[str, bool]]:
        """Those of every recipe, and a head of its own."""
        return {"classification": ("peft.type", True), **super().features()}

    def rules(self, positions: int | None) -> "Rules":
        """Pairs, or texts with the place of their class among all; reads the first rows where nobody names the classes.

        Raises DataError for classes that do not fit.
        """
        rules = self.data.rules(positions)
        if isinstance(self.head, ScalarHead):
            return replace(rules, answers="pairs")
        from ftune.recipes.runs.classes import class_names

        classes = class_names(self.data, self.head.labels, self.head.positive_class, self.seed)
        return replace(rules, answers="class", classes=classes)

    def execute(self, options: RunOptions) -> None:
        """Train, and leave the reward model in the run folder.

        Raises StoppedError when a signal ended it early, and the errors of whatever went wrong.
        """
        from ftune.recipes.runs.rm import run_rm

        run_rm(self, options)
