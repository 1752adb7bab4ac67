"""A recipe as a `Job`: the plain values that the arithmetic of `ftune.plan` takes."""

from typing import TYPE_CHECKING, Any

from ftune.peft.places import classifier
from ftune.plan.job import BYTES, Dtype, Job, Spread
from ftune.plan.shape import ModelShape
from ftune.recipes.runs.plan_rows import Rows
from ftune.recipes.runs.plan_speed import most_tokens, speed_of

if TYPE_CHECKING:
    from ftune.plan.adapter import Adapter
    from ftune.recipes.ppo import PpoRecipe
    from ftune.recipes.rm import Head
    from ftune.recipes.training import TrainingRecipe

ANSWERS = 2
"""Rows of a pair, which `ftune rm` computes together; a ranking of more answers has more."""


FP8_TIME = "speed.fp8: time is planned as that of bf16, and shares of the peak are of the peak in bf16"

QUANTISED = ("nf4", "int8")
"""What a plan knows the size of."""


def job_of(
    recipe: "TrainingRecipe | PpoRecipe",
    shape: ModelShape,
    rows: Rows,
    spread: Spread,
    dtype: Dtype,
    *,
    on_gpu: bool,
    card: int | None = None,
) -> tuple[Job, list[str]]:
    """The job of one process, and what had to be taken on trust, in sentences. `card` is the device's memory in bytes.

    `shape` is that of the causal model. Raises ModelError where the PEFT method finds nothing to train in it,
    RecipeError for weights that products in `dtype` do not suit.
    """
    from ftune.recipes.training import TrainingRecipe

    if isinstance(recipe, TrainingRecipe):
        job, notes = _of_training(recipe, shape, rows, spread, dtype, on_gpu=on_gpu)
    else:
        job, notes = _of_ppo(recipe, shape, rows, spread, dtype, on_gpu=on_gpu, card=card)
    if shape.stored_as not in ("none", *QUANTISED):
        notes = [*notes, f"the model's files hold its weights as {shape.stored_as}; they are counted as {dtype}"]
    return job, notes


def _of_training(
    recipe: "TrainingRecipe", shape: ModelShape, rows: Rows, spread: Spread, dtype: Dtype, *, on_gpu: bool
) -> tuple[Job, list[str]]:
    recipe.check_products(dtype)
    data: Any = recipe.data
    packed = bool(getattr(data, "packing", False))
    head: Any = getattr(recipe, "head", None)  # of `ftune rm`
    answers, notes = 1, list[str]()
    if head is not None:
        shape = classifier(shape, _outputs(head))
        if head.type == "scalar":
            answers, notes = ANSWERS, ["rows are taken as pairs; rankings have more answers each"]
    notes += [FP8_TIME] if getattr(getattr(recipe, "speed", None), "fp8", "off") != "off" else []
    adapter = recipe.peft.planned(shape)
    speed = speed_of(recipe, shape, adapter, spread, on_gpu=on_gpu)
    whole = speed["flat"] and speed["loss"] == "fused"
    job = Job(
        **_model(recipe, shape, dtype),
        **speed,
        kind="sft" if head is None else "rm",
        adapter=adapter,
        dense=recipe.peft.dense(shape),
        micro_batch_size=recipe.batch.rows_at_once * answers,
        accumulation=recipe.batch.accumulation(spread.world),
        tokens=min(data.max_length, shape.positions or data.max_length) if packed else rows.longest,
        packed=packed,
        most_tokens=None if packed else most_tokens(recipe, rows, spread, whole=whole, on_gpu=on_gpu, answers=answers),
        own_tokens=round(rows.mean) if packed and rows.count else None,
        equal_rows=rows.equal,
        checkpointing=recipe.batch.checkpointing,
        offload=recipe.batch.activation_offload,
        spread=spread,
        on_gpu=on_gpu,
    )
    return job, notes


def _outputs(head: "Head") -> int:
    """Numbers that the head gives; two classes where the rows name them."""
    if head.type == "scalar":
        return 1
    return len(head.labels) if head.labels else 2


def _of_ppo(
    recipe: "PpoRecipe",
    shape: ModelShape,
    rows: Rows,
    spread: Spread,
    dtype: Dtype,
    *,
    on_gpu: bool,
    card: int | None,
) -> tuple[Job, list[str]]:
    from ftune.recipes.runs.plan_roles import roles_of, started_from

    peft = started_from(recipe, recipe.peft)
    adapter: Adapter = peft.planned(shape)
    free = None if card is None else card - shape.parameters * BYTES[dtype]
    roles, notes = roles_of(recipe, shape, adapter, spread.world, split=spread.type == "fsdp", on_gpu=on_gpu, free=free)
    tokens = min(rows.longest, roles.prompt_tokens) + roles.new_tokens
    job = Job(
        **_model(recipe, shape, dtype),
        kind="ppo",
        adapter=adapter,
        micro_batch_size=recipe.ppo.micro_batch_size,
        accumulation=max(1, recipe.ppo.minibatch_size // (recipe.ppo.micro_batch_size * spread.world)),
        tokens=tokens,
        on_gpu=on_gpu,
        checkpointing=recipe.ppo.activation_checkpointing,
        spread=spread,
        roles=roles,
    )
    return job, notes


def _model(recipe: "TrainingRecipe | PpoRecipe", shape: ModelShape, dtype: Dtype) -> dict[str, Any]:
    """What a job has of the sections that all recipes share."""
    quantization: Any = recipe.model.quantization
    already = quantization.type == "none" and shape.stored_as in QUANTISED
    attention = recipe.model.attention
    return {
        "shape": shape,
        "dtype": dtype,
        "quantization": shape.stored_as if already else quantization.type,
        "double_quant": shape.stored_double if already else getattr(quantization, "double_quant", True),
        "optimizer": recipe.optim.optimizer,
        "attention": "sdpa" if attention == "auto" else attention,  # transformers' choice where it has it
        "dropout": float(getattr(recipe.peft, "dropout", 0.0)),
    }
