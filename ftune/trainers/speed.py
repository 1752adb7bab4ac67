"""What makes a run fast, chosen and proved on the model itself before the first step."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, fields, replace

import torch
from transformers import PreTrainedModel

from ftune.backends.engines.sharding import device_of
from ftune.models.output_head import is_virtual
from ftune.speed.attention import WORDS, attention, candidates, switchable
from ftune.speed.compiled import compiled_layers, decoder_layers
from ftune.speed.extras import UnsupportedError
from ftune.speed.folded import folded, watched
from ftune.speed.loss import give_loss, loss_fault, lossy_head
from ftune.trainers.probe import packing_fault
from ftune.trainers.speed_proof import Proof, one_pass

PROBED_TOKENS = 16
"""Of each of two rows: enough to see a leak or another loss, and little work on a CPU."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be on where it is exact; a text says why a part is off."""

    packed_attention: bool | str = True
    fused_loss: bool | str = True
    folded_lora: bool | str = True
    compiled_layers: bool | str = True


@dataclass(frozen=True, slots=True)
class Speed:
    """What is on."""

    attention: str = ""
    """The attention of flat batches, by its name in transformers' interface; empty where batches stay as they were."""
    fused_loss: bool = False
    """Whether the model computes its loss without logits, and only of tokens that train."""
    folded_lora: int = 0
    """Products that have adapters in them."""
    compiled_layers: bool = False
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
        reasons = [f"{OTHERWISE[part]}: {why}" for part, why in self.reasons.items()]
        return "; ".join([", ".join(parts), *reasons] if parts else reasons)


OTHERWISE = {
    "packed_attention": "batches with padding or masks",
    "fused_loss": "loss as the trainer has it",
    "folded_lora": "adapters beside their layers",
    "compiled_layers": "layers not compiled",
}
"""What a run says where a part is off."""


@contextmanager
def at_speed(
    model: PreTrainedModel,
    rows: Sequence[list[int]],
    dtype: torch.dtype,
    *,
    asked: str = "auto",
    wanted: Wanted = Wanted(),
) -> Iterator[Speed]:
    """The model with what of it is exact with this model on this machine; behind, it is as it was, but for its loss.

    `rows` are those of a micro-batch, of which each part is tried on a few tokens; what is compiled is compiled for as
    many as they have. `asked` is the attention that the recipe names. `dtype` is that of products.
    """
    shortened = [row[:PROBED_TOKENS] for row in (rows[0], rows[-1])]
    speed = Speed(
        reasons={one.name: why for one in fields(wanted) if isinstance(why := getattr(wanted, one.name), str)}
    )
    with ExitStack() as stack:
        if wanted.packed_attention is True:
            name, why = _attention(model, shortened, dtype, asked)
            speed = speed.without("packed_attention", why) if why else replace(speed, attention=name)
        if wanted.fused_loss is True:
            why = _loss(model, shortened, dtype)
            speed = speed.without("fused_loss", why) if why else replace(speed, fused_loss=True)
        if speed.attention and speed.fused_loss:
            stack.enter_context(attention(model, speed.attention))
            proof = Proof.of(model, shortened, dtype)
            if wanted.folded_lora is True:
                speed = _fold(model, speed, proof, stack)
            if wanted.compiled_layers is True:
                speed = _compile(model, speed, proof, rows, stack)
        elif speed.attention:
            stack.enter_context(attention(model, speed.attention))
        yield speed


def _fold(model: PreTrainedModel, speed: Speed, proof: Proof, stack: ExitStack) -> Speed:
    """Adapters in the products of their layers, if the model has such adapters."""
    with watched(model) as found, torch.no_grad():
        proof.run(model)
    if not found:
        return speed
    why = _enter(folded(model, found), model, proof, stack)
    return speed.without("folded_lora", why) if why else replace(speed, folded_lora=len(found))


def _compile(model: PreTrainedModel, speed: Speed, proof: Proof, rows: Sequence[list[int]], stack: ExitStack) -> Speed:
    """Compiled layers, on a GPU."""
    if device_of(model).type != "cuda":
        return speed
    if not decoder_layers(model):
        return speed.without("compiled_layers", "the model does not say which layers it repeats")
    before = sum(torch._dynamo.utils.counters["graph_break"].values())
    why = _enter(compiled_layers(model), model, proof, stack, first=rows)
    if not why and sum(torch._dynamo.utils.counters["graph_break"].values()) > before:
        why = "a layer is more than one graph"
    return speed.without("compiled_layers", why) if why else replace(speed, compiled_layers=True)


def _enter(
    part: AbstractContextManager[None],
    model: PreTrainedModel,
    proof: Proof,
    stack: ExitStack,
    first: Sequence[list[int]] = (),
) -> str:
    """Switch a part on, where loss and gradients stay what they are; else, why not. `first` goes through before."""
    with ExitStack() as tried:
        tried.enter_context(part)
        try:
            if first:
                one_pass(model, first, proof.dtype)
            why = proof.fault(model)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # of a compiler or of a model that is not as others are
            why = str(error).strip().partition("\n")[0] or type(error).__name__
        if not why:
            stack.push(tried.pop_all())
    return why


def _attention(model: PreTrainedModel, rows: list[list[int]], dtype: torch.dtype, asked: str) -> tuple[str, str]:
    """The best attention that keeps rows apart; or none, and why."""
    if is_virtual(model):
        return "", "the method puts virtual tokens before each row"
    if asked != "auto" and asked not in WORDS:
        return "", f"model.attention is '{asked}'"
    if not switchable(model):
        return "", "the model brings its own attention"
    why = ""
    for name in candidates(device_of(model)) if asked == "auto" else [asked]:
        fault = _attention_fault(model, name, rows, dtype)
        if not fault:
            return name, ""
        why = why or f"{WORDS[name]}: {fault}"  # of the best one
    return "", why


def _attention_fault(model: PreTrainedModel, name: str, rows: list[list[int]], dtype: torch.dtype) -> str:
    """What is wrong with an attention on this model; empty where rows are to it what they are alone."""
    try:
        with attention(model, name):
            fault = packing_fault(model, rows, dtype).fault
    except (UnsupportedError, ValueError, RuntimeError, ImportError) as error:  # not for this model, or not compiled
        return str(error).strip().partition("\n")[0]
    return f"packed rows {fault}" if fault else ""


def _loss(model: PreTrainedModel, rows: list[list[int]], dtype: torch.dtype) -> str:
    """Why the model cannot give its loss by itself; empty where it does from now on."""
    head = lossy_head(model)
    if isinstance(head, str):
        return head
    give_loss(model, head)
    row = torch.tensor([rows[0]], device=device_of(model))
    return loss_fault(model, {"input_ids": row, "labels": row}, dtype)
