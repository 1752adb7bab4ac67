"""4-bit NormalFloat weights, the storage of QLoRA (arXiv:2305.14314, section 3)."""

from typing import Literal

from ftune.models.quantization.base import BitsAndBytes


class Nf4(BitsAndBytes):
    """Blocks of 64 weights share a scale; each weight is one of 16 quantiles of the normal distribution."""

    type: Literal["nf4"] = "nf4"
    """4-bit NormalFloat (QLoRA)."""

    double_quant: bool = True
    """Quantise the scales too (double quantisation): saves about 0.37 bits a parameter."""

    compute_dtype: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """Dtype that weights are unpacked to for products; `auto` is the run's own."""

    def loader_args(self, dtype: str) -> dict[str, object]:
        """A BitsAndBytesConfig for NF4."""
        from transformers import BitsAndBytesConfig

        from ftune.models.dtype import torch_name

        config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=self.double_quant,
            bnb_4bit_compute_dtype=dtype if self.compute_dtype == "auto" else torch_name(self.compute_dtype),
        )
        return {"quantization_config": config}
