"""One class of a sequence classifier, such as a detector of toxic text."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

from ftune.core.errors import ModelError
from ftune.core.section import Location
from ftune.core.suggest import did_you_mean
from ftune.rewards.base import RewardSource, Sample, Score, Scorer, Surroundings
from ftune.rewards.classifiers.find import check_classifier_path
from ftune.rewards.paths import LookedUp

if TYPE_CHECKING:
    import torch


class Classifier(RewardSource):
    """How much a sequence classifier takes the text for one of its classes; a negative `weight` turns it round."""

    type: Literal["classifier"] = "classifier"

    path: LookedUp
    """Folder or hub id of any sequence classifier; run folder of `ftune rm`."""

    label: str | int
    """The class, by its name or its number from 0."""

    transform: Literal["probability", "logit", "log_probability"] = "probability"
    """What of the class is the reward. Logits have no limits and separate what is already likely."""

    input: Literal["completion", "conversation"] = "completion"
    """What it reads: the completion alone, or the prompt too, which needs a chat template where prompts are chats."""

    def faults(self) -> Iterator[tuple[Location, str]]:
        """A path without a model."""
        if problem := check_classifier_path(self.path):
            yield ("path",), problem

    def open(self, around: Surroundings) -> Scorer:
        """The classifier, loaded. Raises ModelError when it cannot be, or has no such class."""
        from ftune.rewards.classifiers.forward import in_micro_batches
        from ftune.rewards.classifiers.load import load_classifier
        from ftune.rewards.classifiers.rows import RowReader

        loaded = load_classifier(self.path, around)
        column = self._column(loaded.labels)
        reader = RowReader(self.path, loaded, around, self.input)
        alone = loaded.multi_label or len(loaded.labels) == 1

        def score(samples: Sequence[Sample]) -> list[Score]:
            if not samples:
                return []
            logits = in_micro_batches(loaded.logits, reader.rows(samples), around.micro_batch_size)
            return [float(value) for value in self._transformed(logits, alone=alone)[:, column]]

        return score

    def _column(self, labels: list[str]) -> int:
        if isinstance(self.label, int):
            if not 0 <= self.label < len(labels):
                raise ModelError(f"label: '{self.path}' has classes 0 to {len(labels) - 1}, no {self.label}")
            return self.label
        if self.label not in labels:
            raise ModelError(f"label: '{self.path}' has no class '{self.label}'{did_you_mean(self.label, labels)}")
        return labels.index(self.label)

    def _transformed(self, logits: "torch.Tensor", *, alone: bool) -> "torch.Tensor":
        """The logits, shape (rows, classes), as `transform` says; `alone`: each class against its own absence."""
        from torch.nn.functional import logsigmoid

        if self.transform == "logit":
            return logits
        logs = logsigmoid(logits) if alone else logits.log_softmax(dim=-1)
        return logs if self.transform == "log_probability" else logs.exp()
