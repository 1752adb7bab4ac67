"""What a recipe's `speed:` will be on a device, as far as that is known before its model is there.

A run asks the model itself (`ftune.trainers.speed`); these are the same questions to its shape.
"""

from typing import TYPE_CHECKING, Any

from ftune.plan.adapter import Adapter
from ftune.plan.shape import ModelShape

if TYPE_CHECKING:
    from ftune.recipes.training import TrainingRecipe

KEEPS_ROWS_APART = ("auto", "flash_attention_2", "flex_attention")
"""Values of `model.attention`, of which flat batches take the best one, or the one that is named."""


def speed_of(recipe: "TrainingRecipe", shape: ModelShape, adapter: Adapter, *, on_gpu: bool) -> dict[str, Any]:
    """The fields of a job that say how rows lie in a batch and how the loss is computed."""
    speed: Any = getattr(recipe, "speed", None)  # only `ftune sft` has it
    virtual = adapter.virtual_tokens + adapter.prefix_tokens > 0
    wanted = speed is not None and not virtual
    named = recipe.model.attention
    return {
        "flat": wanted
        and speed.packed_attention == "auto"
        and named in KEEPS_ROWS_APART
        and _keeps_rows_apart(shape, asked=named, on_gpu=on_gpu),
        "loss": _loss(recipe.trainer_args, fused=wanted and speed.fused_loss == "auto"),
    }


def _keeps_rows_apart(shape: ModelShape, *, asked: str, on_gpu: bool) -> bool:
    """Whether an attention for flat batches computes what the model wants: scores with a cap take FlexAttention."""
    if shape.scores == "capped":
        return on_gpu or asked == "flex_attention"
    return shape.scores == "fused"


def _loss(trainer_args: dict[str, Any], *, fused: bool) -> str:
    if trainer_args.get("label_smoothing_factor"):
        return "whole"
    return "fused" if fused and trainer_args.get("loss_type", "nll") == "nll" else "tiled"
