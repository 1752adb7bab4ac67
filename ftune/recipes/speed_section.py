"""The `speed` section: what makes training fast without changing its result, each part to be switched off."""

from typing import Literal

from ftune.core.section import Section


class Speed(Section):
    """What makes training fast, with the same result; `auto` is on where it is exact; the run says where not."""

    packed_attention: Literal["auto", "off"] = "auto"
    """Compute each micro-batch as one sequence without padding, with attention within rows alone."""

    fused_loss: Literal["auto", "off"] = "auto"
    """Compute loss and gradient without logits of the whole batch, of tokens that train alone."""
