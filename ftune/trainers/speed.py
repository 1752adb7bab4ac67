"""What makes a run fast, chosen and proved on the model itself before the first step."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import cycle
from typing import Any

import torch
from transformers import PreTrainedModel

from ftune.backends.engines.sharding import device_of
from ftune.core.errors import ModelError
from ftune.models.output_head import is_virtual
from ftune.speed.attention import WORDS, attention, candidates, switchable
from ftune.speed.compiled import compiled_layers, decoder_layers
from ftune.speed.extras import UnsupportedError
from ftune.speed.flat import FlatCollator
from ftune.speed.folded import foldable, folded, watched
from ftune.speed.fp8 import Scales, convertible, fp8_products
from ftune.speed.selective import selective_layers
from ftune.trainers.probe import packing_fault
from ftune.trainers.speed_proof import Proof
from ftune.trainers.speed_tasks import NEXT_TOKENS, Task, first_line

PROBED_TOKENS = 16
"""Of each of two rows: enough to see a leak or another loss, and little work on a CPU."""


PROVED_TOKENS = 4096
"""What parts are tried with on a GPU, and kernels compiled for: with more they are as fast, and rounding means less."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be on where it is exact; a text says why a part is off."""

    packed_attention: bool = True
    fused_loss: bool = True
    folded_lora: bool | str = True
    compiled_layers: bool | str = True
    fp8: Scales | None = None
    """Not exact, and so asked for: it is on, or there is no run."""


@dataclass(frozen=True, slots=True)
class Speed:
    """What is on."""

    attention: str = ""
    """The attention of flat batches, by its name in transformers' interface; empty where batches stay as they were."""
    difference: float = 0.0
    """Of logits between rows end to end with that attention, and each alone."""
    fused_loss: bool = False
    """Whether the model computes its loss without logits, and only of tokens that train."""
    folded_lora: int = 0
    """Products that have adapters in them."""
    compiled_layers: bool = False
    fp8: Scales | None = None
    fp8_products: int = 0
    """Linear layers that compute in FP8."""
    reasons: dict[str, str] = field(default_factory=dict)
    """Why a part is off that was wanted, by the part's name in `Wanted`."""

    def without(self, part: str, why: str) -> "Speed":
        """The same, and why a part is off."""
        fused_loss = self.fused_loss and part != "fused_loss"
        return replace(self, fused_loss=fused_loss, reasons=self.reasons | {part: why})

    def words(self) -> str:
        """One line for a person."""
        parts = [f"no padding (attention: {WORDS[self.attention]})"] if self.attention else []
        parts += ["no logits but of trained tokens"] if self.fused_loss else []
        parts += [f"adapters folded into {self.folded_lora} products"] if self.folded_lora else []
        parts += ["compiled layers"] if self.compiled_layers else []
        if self.fp8:
            parts.append(f"{self.fp8_products} products in FP8 ({self.fp8} scales), which changes the result")
        reasons = [f"{OTHERWISE[part]}: {why}" for part, why in self.reasons.items()]
        return "; ".join([", ".join(parts), *reasons] if parts else reasons)


OTHERWISE = {
    "packed_attention": "batches with padding or masks",
    "fused_loss": "loss as the trainer has it",
    "folded_lora": "adapters beside their layers",
    "compiled_layers": "layers not compiled",
}
"""What a run says where a part is off."""

NOT_FLAT = "it is for flat batches with a loss of their own"
REPEATS_NOTHING = "the model does not say which layers it repeats"
NOTHING_FITS = "no linear layer of its decoder layers has widths that are multiples of 16"
BROKEN = "a layer is more than one graph"


@contextmanager
def at_speed(
    model: PreTrainedModel,
    rows: Sequence[list[int]],
    dtype: torch.dtype,
    *,
    longest: int = 0,
    asked: str = "auto",
    wanted: Wanted = Wanted(),
    selective: bool = False,
    task: Task = NEXT_TOKENS,
) -> Iterator[Speed]:
    """The model with what of it is exact with this model on this machine; behind, it is as it was, but for its task.

    `rows` are those of a micro-batch, of which each part is tried on a few tokens, on a GPU on more of them, for rows
    of at most `longest` tokens. `asked` is the attention that the recipe names. `dtype` is that of
    products. `task` is what the model computes. `selective` layers checkpoint themselves. Raises ModelError where they
    cannot, and where FP8 is wanted and the model cannot have it, or is not nearly itself with it.
    """
    shortened = [row[:PROBED_TOKENS] for row in (rows[0], rows[-1])]
    speed = Speed()
    with ExitStack() as stack:
        able = bool(getattr(wanted, task.part))
        if able and (why := task.give(model, shortened[0], dtype)):
            speed, able = speed.without(task.part, why), False
        speed = replace(speed, fused_loss=able and task.part == "fused_loss")
        if wanted.packed_attention and (able or task.part != "packed_attention"):
            found = _attention(model, shortened, dtype, asked, task)
            if isinstance(found, str):
                speed = speed.without("packed_attention", found)
            else:
                speed = replace(speed, attention=found[0], difference=found[1])
        if speed.attention:
            stack.enter_context(attention(model, speed.attention))
        if selective:  # before gradients are tried: that must not need more memory than the run
            with torch.autocast(device_of(model).type, dtype, enabled=dtype != torch.float32):
                stack.enter_context(selective_layers(model, _looked_at(model, shortened, flat=bool(speed.attention))))
        on_gpu = device_of(model).type == "cuda"
        folds = wanted.folded_lora if any(foldable(module) for module in model.modules()) else False
        compiles = wanted.compiled_layers if on_gpu and not wanted.fp8 else False
        if speed.attention and able:
            proof = partial(Proof.of, model, _many(rows, longest) if on_gpu else shortened, dtype, longest, task)
            if folds:
                speed = _fold(model, speed, folds, proof, stack)
            if wanted.fp8:
                speed = _fp8(model, speed, wanted.fp8, proof, stack)
            elif compiles:
                speed = _compile(model, speed, compiles, proof, stack)
        else:
            for part, one in (("folded_lora", folds), ("compiled_layers", compiles)):
                if one:
                    speed = speed.without(part, one if isinstance(one, str) else NOT_FLAT)
        if wanted.fp8 and not speed.fp8:
            why = "; ".join(f"{OTHERWISE[part]}: {reason}" for part, reason in speed.reasons.items())
            raise ModelError(f"speed.fp8: {NOT_FLAT} ({why}); use 'speed.fp8: off'")
        yield speed


def _looked_at(model: PreTrainedModel, rows: list[list[int]], *, flat: bool) -> dict[str, Any]:
    """A batch as the run has them, of the first row where it pads."""
    batch: dict[str, Any] = {"input_ids": torch.tensor(rows[:1])}
    if flat:
        batch = FlatCollator()([{"input_ids": row, "labels": row} for row in rows])
        del batch["labels"]
    return {name: value.to(device_of(model)) if torch.is_tensor(value) else value for name, value in batch.items()}


def _fold(
    model: PreTrainedModel, speed: Speed, wanted: bool | str, proof: Callable[[], Proof], stack: ExitStack
) -> Speed:
    """Adapters in the products of their layers."""
    if isinstance(wanted, str):
        return speed.without("folded_lora", wanted)
    before = proof()
    with watched(model) as found, torch.no_grad():
        before.run(model)
    why = _enter(folded(model, found), model, before, stack)
    return speed.without("folded_lora", why) if why else replace(speed, folded_lora=len(found))


def _compile(
    model: PreTrainedModel, speed: Speed, wanted: bool | str, proof: Callable[[], Proof], stack: ExitStack
) -> Speed:
    """Compiled layers, proved on as many tokens as the compiler then makes its kernels for."""
    if isinstance(wanted, str):
        return speed.without("compiled_layers", wanted)
    if not decoder_layers(model):
        return speed.without("compiled_layers", REPEATS_NOTHING)
    broken = _graph_breaks()
    why = _enter(compiled_layers(model), model, proof(), stack)
    if not why and _graph_breaks() > broken:
        why = BROKEN
    return speed.without("compiled_layers", why) if why else replace(speed, compiled_layers=True)


def _fp8(model: PreTrainedModel, speed: Speed, wanted: Scales, proof: Callable[[], Proof], stack: ExitStack) -> Speed:
    """FP8 products, in layers that are compiled on a GPU, proved together; what was asked for is not left out."""
    on_gpu, products, broken = device_of(model).type == "cuda", len(convertible(model)), _graph_breaks()
    why = "" if products else NOTHING_FITS if decoder_layers(model) else REPEATS_NOTHING
    if products:
        why = _enter(_in_fp8(model, wanted, on_gpu=on_gpu), model, proof(), stack, fp8=True)
    if not why and _graph_breaks() > broken:
        why = BROKEN
    if why:
        other = ", or try 'rowwise'" if products and wanted == "tensorwise" else ""
        raise ModelError(f"speed.fp8: this model with '{wanted}': {why}; use 'speed.fp8: off'{other}")
    return replace(speed, compiled_layers=on_gpu, fp8=wanted, fp8_products=products)


@contextmanager
def _in_fp8(model: PreTrainedModel, scales: Scales, *, on_gpu: bool) -> Iterator[None]:
    """FP8 in compiled layers; emulated and not compiled elsewhere, where a run does not come and tests do."""
    with fp8_products(model, scales, emulated=not on_gpu), compiled_layers(model) if on_gpu else nullcontext():
        yield


def _graph_breaks() -> int:
    return sum(torch._dynamo.utils.counters["graph_break"].values())


def _enter(
    part: AbstractContextManager[None], model: PreTrainedModel, proof: Proof, stack: ExitStack, *, fp8: bool = False
) -> str:
    """Switch a part on, where loss and gradients stay what they are, with `fp8` about what they are; else, why not."""
    with ExitStack() as tried:
        try:
            tried.enter_context(part)
            why = proof.fault(model, fp8=fp8)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # of a compiler or of a model that is not as others are
            why = first_line(error)
        if not why:
            stack.push(tried.pop_all())
    return why


def _many(rows: Sequence[list[int]], longest: int) -> list[list[int]]:
    """The rows over and over, to PROVED_TOKENS tokens, or to half of what a micro-batch may have.

    What is not yet folded or compiled needs more memory a token than the run.
    """
    left = min(PROVED_TOKENS, max(len(rows) * max(longest, *map(len, rows)) // 2, 2 * PROBED_TOKENS))
    again, chosen = cycle(rows), list[list[int]]()
    while left > 0:
        chosen.append(next(again)[:left])
        left -= len(chosen[-1])
    return chosen


def _attention(
    model: PreTrainedModel, rows: list[list[int]], dtype: torch.dtype, asked: str, task: Task
) -> tuple[str, float] | str:
    """The best attention that keeps rows apart, and how far logits differ by it; or why there is none."""
    if is_virtual(model):
        return "the method puts virtual tokens before each row"
    if asked != "auto" and asked not in WORDS:
        return f"model.attention is '{asked}'"
    if not switchable(model):
        return "the model brings its own attention"
    faults = []
    for name in candidates(device_of(model)) if asked == "auto" else [asked]:
        try:
            with attention(model, name):
                found = packing_fault(model, rows, dtype, task)
        except torch.OutOfMemoryError:
            raise
        except (UnsupportedError, ValueError, RuntimeError, ImportError) as error:  # not for this model or machine
            faults.append(f"{WORDS[name]}: {first_line(error)}")
            continue
        if not found.fault:
            return name, found.difference
        faults.append(f"{WORDS[name]}: packed rows {found.fault}")
    return faults[0]  # of the best one
