"""The rotary embedding in a GGUF file: base, scaling, and Llama 3's factor for each frequency."""

import math
from typing import TYPE_CHECKING, Any

from ftune.merge.gguf.architectures import UnfitError, head_dim

if TYPE_CHECKING:
    from gguf import GGUFWriter
    from transformers import PreTrainedConfig

LOCAL_BASE = 10_000.0
"""Gemma 3's base in the layers with a window, which readers take for granted."""

SETTINGS = {
    "default": set[str](),
    "linear": {"factor"},
    "yarn": {"factor", "original_max_position_embeddings"},
    "llama3": {"factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"},
}
"""The kinds of scaling that GGUF can say, with all their settings; others have other ones."""


def write_rope(writer: "GGUFWriter", config: "PreTrainedConfig") -> list[float] | None:
    """Write base and scaling; returns the values of the tensor `rope_freqs.weight` where the model needs it.

    Raises UnfitError for a scaling that GGUF cannot say.
    """
    rope = _of_whole_text(config)
    kind = rope.get("rope_type", "default")
    given = {key for key, value in rope.items() if value is not None} - {"rope_type", "rope_theta"}
    if kind not in SETTINGS or given - SETTINGS[kind]:
        raise UnfitError(f"its rotary embedding is scaled by {kind} with {', '.join(sorted(given))}")
    writer.add_rope_freq_base(rope["rope_theta"])
    if kind == "llama3":
        return _llama3_factors(rope, head_dim(config))
    if kind != "default":
        from gguf import RopeScalingType

        writer.add_rope_scaling_type(RopeScalingType(kind))
        writer.add_rope_scaling_factor(rope["factor"])
    if kind == "yarn":
        original = rope.get("original_max_position_embeddings") or config.max_position_embeddings
        writer.add_rope_scaling_orig_ctx_len(original)
    return None


def _of_whole_text(config: "PreTrainedConfig") -> dict[str, Any]:
    """The settings of the layers that see the whole text; Gemma 3 has others in those with a window."""
    rope: dict[str, Any] = config.rope_parameters
    if "full_attention" not in rope:
        return rope
    local = rope["sliding_attention"]
    if local.get("rope_type", "default") != "default" or local["rope_theta"] != LOCAL_BASE:
        raise UnfitError(f"the rotary embedding of its layers with a window is not the default of base {LOCAL_BASE:g}")
    return dict(rope["full_attention"])


def _llama3_factors(rope: dict[str, Any], head: int) -> list[float]:
    """What each frequency is divided by: 1 for short waves, `factor` for long ones, between them a mean.

    As in transformers' `llama3`: with n = original context and wavelength w, long is w > n / low_freq_factor, short is
    w < n / high_freq_factor, and the mean of 1 and 1 / factor is weighted by (n / w - low) / (high - low).
    """
    context, low, high = rope["original_max_position_embeddings"], rope["low_freq_factor"], rope["high_freq_factor"]
    factors = []
    for pair in range(0, head, 2):
        turns = context / (2 * math.pi * rope["rope_theta"] ** (pair / head))
        smooth = min(max((turns - low) / (high - low), 0.0), 1.0)
        factors.append(1 / (smooth + (1 - smooth) / rope["factor"]))
    return factors
