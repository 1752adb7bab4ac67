"""Weights as they are."""

from typing import Literal

from ftune.models.quantization.base import Quantization


class Unquantized(Quantization):
    """No quantization: weights in `model.dtype`."""

    type: Literal["none"] = "none"
    """Weights in `model.dtype`."""

    def loader_args(self, dtype: str) -> dict[str, object]:
        """Nothing beyond the dtype."""
        return {}
