"""Weights as they are."""

from typing import ClassVar, Literal

from ftune.models.quantization.base import Quantization


class Unquantized(Quantization):
    """No quantization: weights in `model.dtype`."""

    trains_weights: ClassVar[bool] = True

    type: Literal["none"] = "none"
    """Weights in `model.dtype`."""

    def loader_args(self, dtype: str) -> dict[str, object]:
        """Nothing beyond the dtype."""
        return {}
