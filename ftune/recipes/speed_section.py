"""The `speed` section: what makes training fast without changing its result, each part to be switched off."""

from typing import Literal

from ftune.core.section import Section


class Speed(Section):
    """What makes training fast, with the same result; `auto` is on where it is exact; the run says where not."""

    packed_attention: Literal["auto", "off"] = "auto"
    """Compute each micro-batch as one sequence without padding, with attention within rows alone."""

    fused_loss: Literal["auto", "off"] = "auto"
    """Compute loss and gradient without logits of the whole batch, of tokens that train alone."""

    folded_lora: Literal["auto", "off"] = "auto"
    """Compute LoRA's adapters within the products of their layers, and layers with one input as one product."""

    compiled_layers: Literal["auto", "on", "off"] = "auto"
    """Compile the decoder layers (4 to 12 seconds at the start on an H100, less where kernels are in the cache). `auto`
    does so on a GPU for runs of more than a minute by the arithmetic of `ftune plan`."""
