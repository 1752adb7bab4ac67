"""What a recipe's `speed:` will be on a device, as far as that is known before its model is there.

A run asks the model itself (`ftune.trainers.speed`); these are the same questions to its shape.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ftune.plan.adapter import Adapter
from ftune.plan.job import Job, Spread
from ftune.plan.shape import ModelShape
from ftune.plan.work import HOUR
from ftune.recipes.runs.plan_rows import Rows

if TYPE_CHECKING:
    from ftune.recipes.runs.plan_time import Time
    from ftune.recipes.training import TrainingRecipe

SHORT_S = 60.0
"""Shorter runs do not pay for compiled layers."""

KEEPS_ROWS_APART = ("auto", "flash_attention_2", "flex_attention")
"""Values of `model.attention`, of which flat batches take the best one, or the one that is named."""


def speed_of(
    recipe: "TrainingRecipe", shape: ModelShape, adapter: Adapter, spread: Spread, *, on_gpu: bool
) -> dict[str, Any]:
    """The fields of a job that say how rows lie in a batch and how layers and the loss are computed."""
    speed = recipe.speed
    wanted = adapter.virtual_tokens + adapter.prefix_tokens == 0
    named = recipe.model.attention
    flat = (
        wanted
        and speed.packed_attention == "auto"
        and named in KEEPS_ROWS_APART
        and _keeps_rows_apart(shape, asked=named, on_gpu=on_gpu)
    )
    # scores are read at the ends of rows: `ftune rm` makes no logits, and has no such key
    loss = _loss(recipe.trainer_args, fused=wanted and getattr(speed, "fused_loss", "auto") == "auto")
    whole = flat and loss == "fused" and not _in_parts(spread)
    return {
        "flat": flat,
        "loss": loss,
        "folded": whole and speed.folded_lora == "auto" and _foldable(recipe, shape),
    }


def most_tokens(
    recipe: "TrainingRecipe", rows: Rows, spread: Spread, *, whole: bool, on_gpu: bool, answers: int = 1
) -> int:
    """Tokens of the largest flat micro-batch, of which a row of the recipe is so many `answers`.

    Where a GPU's loss is a sum over tokens (`whole`), the rows of a step are grouped anew, into as few as hold no more
    than the largest that the recipe allows. DeepSpeed and FSDP2 take them as they come.
    """
    at_once = recipe.batch.rows_at_once * answers
    if not (whole and on_gpu) or _in_parts(spread):
        return rows.most(at_once)
    return min(at_once * rows.longest, rows.most(at_once * recipe.batch.accumulation(spread.world)))


def compiled(recipe: "TrainingRecipe", job: Job, time: "Time | None") -> Job:
    """The job with compiled layers, where the run is worth it."""
    speed: Any = getattr(recipe, "speed", None)  # ppo has none, nor flat batches
    able = job.flat and job.loss == "fused" and job.on_gpu and not _in_parts(job.spread)
    if not able or speed.compiled_layers == "off":
        return job
    short = time is not None and time.hours * HOUR < SHORT_S
    fp8 = getattr(speed, "fp8", "off") != "off"
    return replace(job, compiled=fp8 or speed.compiled_layers == "on" or not short, fp8=fp8)


def _in_parts(spread: Spread) -> bool:
    """Whether a backend holds weights in parts, or makes flat pieces of their gradients."""
    return spread.type in ("zero", "fsdp")


def _keeps_rows_apart(shape: ModelShape, *, asked: str, on_gpu: bool) -> bool:
    """Whether an attention for flat batches computes what the model wants: scores with a cap take FlexAttention."""
    if shape.scores == "capped":
        return on_gpu or asked == "flex_attention"
    return shape.scores == "fused"


def _loss(trainer_args: dict[str, Any], *, fused: bool) -> str:
    if trainer_args.get("label_smoothing_factor"):
        return "whole"
    return "fused" if fused and trainer_args.get("loss_type", "nll") == "nll" else "tiled"


def _foldable(recipe: "TrainingRecipe", shape: ModelShape) -> bool:
    """Whether adapters are plain LoRA on linear layers, whole or in NF4 (`ftune.speed.folded.foldable`)."""
    peft: Any = recipe.peft
    plain = peft.type == "lora" and not peft.dora
    return plain and recipe.model.quantization.type != "int8" and shape.family != "gpt2"
