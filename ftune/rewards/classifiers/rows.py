"""Samples as the token ids that a classifier was trained on: rendered again with its own tokenizer and template."""

from collections.abc import Sequence
from typing import Literal, TypeAlias

from ftune.core.errors import DataError, RewardError
from ftune.data.example import Conversation, Text
from ftune.data.template import choose_template
from ftune.rewards.base import Sample, Surroundings
from ftune.rewards.classifiers.load import LoadedClassifier
from ftune.rewards.classifiers.reading import tokenizer_of

Input: TypeAlias = Literal["conversation", "completion"]


class RowReader:
    """Renders and encodes samples for one classifier. Raises RewardError that names the prompt's row."""

    def __init__(self, name: str, loaded: LoadedClassifier, around: Surroundings, read: Input) -> None:
        self._name = name
        self._around = around
        self._tokenizer = loaded.tokenizer
        self._positions = loaded.positions
        self._read = read
        self._template = choose_template(loaded.tokenizer) if loaded.tokenizer.chat_template else None
        self._encoder = tokenizer_of(loaded)
        self._said_cut = False
        if read == "conversation":
            self._tell_differences(loaded)

    def rows(self, samples: Sequence[Sample]) -> list[list[int]]:
        """The token ids of each sample, at most as many as the classifier can read."""
        return self.fitted([self._ids(sample) for sample in samples])

    def fitted(self, whole: Sequence[list[int]]) -> list[list[int]]:
        """Rows of token ids, of each at most as many as the classifier can read; what was cut is said once."""
        fitted = [self._last(ids) for ids in whole]
        cut = sum(len(ids) < len(before) for ids, before in zip(fitted, whole, strict=True))
        if cut and not self._said_cut:
            self._said_cut = True
            self._around.remark(
                f"'{self._name}' reads {self._positions:,} tokens at most: {cut} of these {len(whole)} rows lost the "
                "beginning of their prompt, and later ones may"
            )
        return fitted

    def _ids(self, sample: Sample) -> list[int]:
        example = Text(sample.completion) if self._read == "completion" else sample.example
        if isinstance(example, Conversation) and self._template is None:
            raise RewardError(
                f"{sample.origin}: the prompt is a conversation and the tokenizer of '{self._name}' has no chat "
                "template; score the completion alone (type: classifier, input: completion)"
            )
        try:
            return self._encoder.encode(example).input_ids
        except DataError as error:
            raise RewardError(f"{sample.origin}: '{self._name}' cannot read this row: {error}") from None

    def _last(self, ids: list[int]) -> list[int]:
        """A row's last tokens, behind the token that every row begins with."""
        if self._positions is None or len(ids) <= self._positions:
            return ids
        first = {self._tokenizer.bos_token_id, self._tokenizer.cls_token_id} - {None}
        kept = ids[:1] if ids[0] in first else []
        return kept + ids[len(kept) - self._positions :]

    def _tell_differences(self, loaded: LoadedClassifier) -> None:
        """Say where rows are rendered otherwise than in its training, or than for the policy."""
        own = self._template.sha256 if self._template else None
        if loaded.facts is not None and loaded.facts.template != own:
            self._around.remark(
                f"'{self._name}' has another chat template than it was trained with; rows are rendered with the one "
                "that it has"
            )
        policy = self._around.tokenizer
        if policy is not None and policy.get_vocab() != loaded.tokenizer.get_vocab():
            self._around.remark(f"'{self._name}' has another tokenizer than the policy: rows are encoded anew with it")
        if self._around.template is not None and own is not None and own != self._around.template:
            self._around.remark(
                f"'{self._name}' has another chat template than the policy: rows are rendered anew with it"
            )
