"""8-bit weights with outlier columns kept in 16 bit, LLM.int8() (arXiv:2208.07339)."""

from typing import Annotated, Literal

from pydantic import Field

from ftune.models.quantization.base import BitsAndBytes


class Int8(BitsAndBytes):
    """Vector-wise int8 products; features above the threshold are computed in 16 bit (section 3)."""

    type: Literal["int8"] = "int8"
    """8-bit weights (LLM.int8)."""

    threshold: Annotated[float, Field(ge=0)] = 6.0
    """Magnitude from which a feature counts as an outlier and stays in 16 bit."""

    def loader_args(self, dtype: str) -> dict[str, object]:
        """A BitsAndBytesConfig for int8."""
        from transformers import BitsAndBytesConfig

        return {"quantization_config": BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=self.threshold)}
