"""What makes a run fast, chosen and proved on the model itself before the first step."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace

import torch
from transformers import PreTrainedModel

from ftune.backends.engines.sharding import device_of
from ftune.models.output_head import is_virtual
from ftune.speed.attention import WORDS, attention, candidates, switchable
from ftune.speed.extras import UnsupportedError
from ftune.speed.loss import give_loss, loss_fault, lossy_head
from ftune.trainers.probe import packing_fault

PLAIN_LOSS = "loss as the trainer has it"
"""What a run says where the model does not give its loss by itself."""

PROBED_TOKENS = 16
"""Of each of two rows: enough to see a leak or another loss, and little work on a CPU."""


@dataclass(frozen=True, slots=True)
class Speed:
    """What is on."""

    attention: str = ""
    """The attention of flat batches, by its name in transformers' interface; empty where batches stay as they were."""
    fused_loss: bool = False
    """Whether the model computes its loss without logits, and only of tokens that train."""
    reasons: tuple[str, ...] = ()
    """Why something is off."""

    @contextmanager
    def at_work(self, model: PreTrainedModel) -> Iterator[None]:
        """The model as training wants it; behind, its attention is as it was."""
        with attention(model, self.attention) if self.attention else nullcontext():
            yield

    def without_fused_loss(self, why: str) -> "Speed":
        """The same with the trainer's loss."""
        return replace(self, fused_loss=False, reasons=(*self.reasons, f"{PLAIN_LOSS}: {why}"))

    def words(self) -> str:
        """One line for a person."""
        parts = [f"no padding (attention: {WORDS[self.attention]})"] if self.attention else []
        parts += ["no logits but of trained tokens"] if self.fused_loss else []
        return "; ".join([", ".join(parts), *self.reasons] if parts else self.reasons)


def choose_speed(
    model: PreTrainedModel,
    rows: list[list[int]],
    dtype: torch.dtype,
    *,
    asked: str = "auto",
    packed_attention: bool = True,
    fused_loss: bool = True,
) -> Speed:
    """What of it is exact with this model on this machine; `rows` are some of the training rows, one at least.

    `asked` is the attention that the recipe names. `dtype` is that of products.
    """
    shortened = [row[:PROBED_TOKENS] for row in (rows[0], rows[-1])]
    name, why = _attention(model, shortened, dtype, asked) if packed_attention else ("", "")
    speed = Speed(name, fused_loss, (f"batches with padding or masks: {why}",) if why else ())
    why = _loss(model, shortened, dtype) if fused_loss else ""
    return speed.without_fused_loss(why) if why else speed


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
