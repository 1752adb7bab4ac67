"""What every way to combine several sources provides."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from ftune.core.section import Section

if TYPE_CHECKING:
    from torch import Generator, Tensor


class Combination(Section):
    """A way to combine: its fields are its recipe keys, `combine` applies it to one weight.

    To add one, add a file beside this one with a subclass that has a `type` field; nothing else needs an edit.
    """

    type: str

    sources: ClassVar[tuple[int, int | None]] = (1, None)
    """The fewest and the most sources that it can combine; None: any number."""

    needs_base: ClassVar[bool] = True
    """Whether it combines updates only: whole models then need a common base that they are an update of."""

    @abstractmethod
    def combine(self, updates: "Sequence[Tensor]", weights: Sequence[float], generator: "Generator") -> "Tensor":
        """One tensor of the sources' tensors; those stay as they are, and the result may share memory with none.

        `updates`: of each source W_i - W_0 of one weight, or W_i itself where whole models have no common base; fp32,
        of one shape and on one device. `weights`: one w_i a source. `generator` is the only source of chance, seeded
        by the caller for each weight.
        """

    def unfit(self, weights: Sequence[float], *, common_base: bool) -> str | None:
        """Why sources with these weights cannot be combined in this way, and what to do instead; None if they can.

        `common_base`: all sources are updates of one base, as adapters always are.
        """
        fewest, most = self.sources
        if not fewest <= len(weights) <= (most or len(weights)):
            wanted = f"exactly {fewest}" if fewest == most else f"at least {fewest}"
            return f"'{self.type}' combines {wanted} sources, not {len(weights)}; use 'linear' for any number"
        if self.needs_base and not common_base:
            return f"'{self.type}' combines updates of one base; name it as 'base', or use 'linear' or 'slerp'"
        return None
