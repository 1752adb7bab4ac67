"""What every reward source provides: a number for each completion."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Protocol, TypeAlias

from pydantic import Field

from ftune.core.section import Section
from ftune.data.example import Answered

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Sample:
    """A prompt and what the policy made of it."""

    example: Answered
    """The conversation, or prompt and completion; the policy's completion is its last assistant turn."""
    completion: str
    """The completion as text, without the stop token."""
    token_ids: Sequence[int]
    """The completion's tokens as the policy wrote them, stop token included."""
    stopped: bool
    """Whether the policy ended it, not the limit."""
    columns: Mapping[str, object] = field(default_factory=dict)
    """All columns of the prompt's row."""
    reference: str | None = None
    """The row's own answer, where it has one."""
    origin: str = ""
    """`file:line` of the prompt's row."""


Score: TypeAlias = float | None
"""None: this source has nothing to say about the sample, which is then left out of training."""

Scorer: TypeAlias = Callable[[Sequence[Sample]], list[Score]]
"""An open source. One number a sample, in order; the number of a sample does not depend on the others.

Raises RewardError for anything else than finite numbers and None, naming the prompt's row.
"""


class SharedBase(Protocol):
    """The base model that is in memory already, to put a reward adapter on instead of loading a second copy."""

    @property
    def located(self) -> str:
        """What `from_pretrained` opened."""
        ...

    @property
    def fingerprint(self) -> str:
        """Of the weights; see `ftune.models.fingerprint`."""
        ...

    @property
    def quantized(self) -> bool:
        """Whether the weights are quantised in memory."""
        ...

    def add_reward_adapter(self, folder: str) -> "Callable[[list[list[int]]], torch.Tensor]":
        """The adapter of a sequence classification model, frozen on the shared base.

        The result gives the logits, shape (rows, classes) in fp32, of rows of token ids, at each row's last token.
        """
        ...


def _say_nothing(_: str) -> None:
    """Where nobody listens."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What sources may use while they are opened."""

    device: str = "cpu"
    dtype: str = "fp32"
    """Number format of models that are loaded: bf16, fp16 or fp32."""
    micro_batch_size: int = 16
    """Rows that a model scores at once."""
    shared: SharedBase | None = None
    tokenizer: "PreTrainedTokenizerBase | None" = None
    """The policy's, to say where a reward model reads with another one."""
    template: str | None = None
    """sha256 of the policy's chat template, for the same."""
    remark: Callable[[str], None] = _say_nothing
    """Is told, once each, what a person should know though the run goes on."""


class RewardSource(Section):
    """A source: its fields are its recipe keys, `open` makes it ready.

    To add one, add a file beside this one with a subclass that has a `type` field; nothing else needs an edit.
    """

    weight: Annotated[float, Field()] = 1.0
    """What its numbers are multiplied by before all sources are added up."""

    name: str | None = None
    """Its name in logs and curves; by default its type."""

    @abstractmethod
    def open(self, around: Surroundings) -> Scorer:
        """The source at work. Raises what is wrong with it before the first rollout, where that can be known."""

    def title(self) -> str:
        """Its name in logs and curves."""
        return self.name or str(type(self).model_fields["type"].default)
