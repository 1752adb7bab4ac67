"""A reward model of `ftune rm`, or any other that gives a text one number."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

from ftune.core.errors import ModelError
from ftune.core.section import Location
from ftune.core.suggest import did_you_mean
from ftune.rewards.base import RewardSource, Sample, Score, Scorer, Surroundings
from ftune.rewards.classifiers.find import check_classifier_path
from ftune.rewards.paths import LookedUp

if TYPE_CHECKING:
    from ftune.models.reward_facts import RewardFacts
    from ftune.rewards.classifiers.load import LoadedClassifier


class RewardModel(RewardSource):
    """The score of a reward model, which reads prompt and completion as in its training.

    A classifier that `ftune rm` trained on texts reads the completion alone.
    """

    type: Literal["model"] = "model"

    path: LookedUp
    """Run folder of `ftune rm`, folder of a model or adapter, or hub id."""

    share_base: Literal["auto", "always", "never"] = "auto"
    """Put an adapter on the policy's base where it was trained on the same weights (`auto`), or end where that cannot
    be (`always`), or load a base of its own (`never`)."""

    normalize: Literal["auto"] | bool = "auto"
    """Subtract the mean and divide by the standard deviation of its scores on its own validation rows; `auto` where
    they are known."""

    positive_class: str | None = None
    """The class whose logit is the reward, of a model with several; by default the one it was trained for."""

    def faults(self) -> Iterator[tuple[Location, str]]:
        """A path without a model."""
        if problem := check_classifier_path(self.path):
            yield ("path",), problem

    def open(self, around: Surroundings) -> Scorer:
        """The model, loaded. Raises ModelError when it cannot be, or when its settings do not fit it."""
        from ftune.rewards.classifiers.forward import in_micro_batches
        from ftune.rewards.classifiers.load import load_classifier
        from ftune.rewards.classifiers.rows import RowReader

        loaded = load_classifier(self.path, around, self.share_base)
        column = self._column(loaded)
        mean, std = self._scale(loaded.facts)
        texts = loaded.facts is not None and loaded.facts.kind == "classifier"
        reader = RowReader(self.path, loaded, around, "completion" if texts else "conversation")

        def score(samples: Sequence[Sample]) -> list[Score]:
            if not samples:
                return []
            logits = in_micro_batches(loaded.logits, reader.rows(samples), around.micro_batch_size)
            return [(float(value) - mean) / std for value in logits[:, column]]

        return score

    def _column(self, loaded: "LoadedClassifier") -> int:
        """Which logit is the reward."""
        if len(loaded.labels) == 1:
            if self.positive_class is not None:
                raise ModelError(f"positive_class: '{self.path}' gives one number and has no classes; remove the key")
            return 0
        wanted = self.positive_class or (loaded.facts.positive_class if loaded.facts else None)
        if wanted is None:
            known = ", ".join(loaded.labels)
            raise ModelError(f"positive_class: '{self.path}' has several classes; name the wanted one of {known}")
        if wanted not in loaded.labels:
            raise ModelError(f"positive_class: no class '{wanted}'{did_you_mean(wanted, loaded.labels)}")
        return loaded.labels.index(wanted)

    def _scale(self, facts: "RewardFacts | None") -> tuple[float, float]:
        """What is subtracted, and what is divided by."""
        own = facts is not None and self.positive_class in (None, facts.positive_class)  # else of another class
        if self.normalize and own and facts is not None and facts.mean is not None and facts.std:
            return facts.mean, facts.std
        if self.normalize is True:
            raise ModelError(
                f"normalize: '{self.path}' has no mean and deviation of these scores; train it with validation rows, "
                "or use 'auto'"
            )
        return 0.0, 1.0
