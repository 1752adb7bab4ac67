"""Examples-proportional mixing."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from ftune.data.mixing.base import Mix, one_after_another, whole_and_part

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ftune.data.mixing.base import Order


class Proportional(Mix):
    """Sources in proportion to their sizes, with a cap (arXiv:1910.10683, section 3.5.2; FLAN caps at 3,000).

    A source of n rows gets the rate `weight * min(n, cap) ** (1 / temperature)`; rates are shares of an epoch.
    """

    type: Literal["proportional"] = "proportional"
    streams: ClassVar[bool] = False

    cap: Annotated[int, Field(ge=1)] | None = None
    """A source counts as no larger than this many rows; no cap by default."""

    temperature: Annotated[float, Field(ge=1)] = 1.0
    """1 keeps the proportions; the higher, the more equal the shares."""

    def order(self, sizes: Sequence[int], weights: Sequence[float], seed: int) -> "Order":
        """One epoch has as many rows as the capped sources together."""
        import numpy as np

        capped = np.minimum(sizes, self.cap or max(sizes)).astype(np.float64)
        rates = np.array(weights) * capped ** (1 / self.temperature)
        wanted = _whole(capped.sum() * rates / rates.sum())
        rng = np.random.default_rng(seed)
        return one_after_another(
            [whole_and_part(size, number / size, rng) for size, number in zip(sizes, wanted, strict=True)]
        )


def _whole(shares: "NDArray[np.float64]") -> list[int]:
    """Whole numbers with the same sum, each within one of its share: the largest remainders are rounded up."""
    import numpy as np

    whole = np.floor(shares).astype(np.int64)
    missing = round(float(shares.sum())) - int(whole.sum())
    whole[np.argsort(whole - shares, kind="stable")[:missing]] += 1
    numbers: list[int] = whole.tolist()
    return numbers
