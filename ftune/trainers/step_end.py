"""How a step ends: whether it was finite, and what of it is told, without a GPU that waits for that."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ftune.backends.engines.sharding import whole
from ftune.backends.ranks import Ranks
from ftune.core.errors import DivergedError
from ftune.core.say import Say
from ftune.report.events import EventLog
from ftune.trainers.adamw_bf16 import AdamWBf16
from ftune.trainers.numbers import Reading, reading
from ftune.trainers.resumable import ResumableTrainer

MAX_SKIPPED_IN_A_ROW = 3


class Counts(NamedTuple):
    """What batches hold."""

    tokens: int = 0
    """Without padding."""
    trained: int = 0
    """Of them, those with a label; verdicts of a reward model."""
    squares: int = 0
    """The sum of the rows' squared lengths, which attention costs."""

    def plus(self, more: "Counts") -> "Counts":
        """The sums."""
        return Counts(*map(sum, zip(self, more, strict=True)))


@dataclass(slots=True)
class Left:
    """What a step has left behind, to be judged and told when the device has computed it."""

    step: int
    numbers: Reading
    """On how many processes it was not finite, its gradient norm, the losses of its micro-batches, and the `unread`."""
    losses: int
    rows: list[Any]
    counts: Counts
    log: Callable[[float], None] | None = None
    """Logs the step, given its gradient norm; None while it has not ended."""


class StepEndTrainer(ResumableTrainer):
    """No update from a non-finite step, whose rows are told; after three of them in a row the run ends.

    The numbers that say so lie on the device. Where the optimiser itself looks at them (`late`), they are read, and the
    step is logged, when the device already has the next step to compute: it never waits for Python. Before an
    evaluation, a save and the end they are read at once, so that all of these see what they always saw.
    """

    late = False
    """Whether a step's numbers are read during the next one; it takes an optimiser with a `found_inf`."""
    ranks: Ranks
    events: EventLog
    say: Say
    origins: Sequence[str] | None
    control: Any
    _tr_loss: Tensor
    _left: Left | None = None

    def prepare_steps(self) -> None:
        """Before the first one."""
        self.counts = Counts()
        """Of all steps that were judged."""
        self._counted, self._rows, self._losses = Counts(), list[Any](), list[Tensor]()
        self._skipped_in_a_row = 0

    # -- what a subclass adds ------------------------------------------------------------------------------------------

    def unread(self) -> list[Tensor | float]:
        """Numbers of the step that lie on the device, to be read together with its loss."""
        return []

    def read(self, values: list[float]) -> None:
        """Those numbers, when they have been read."""

    def end_step(self, *, counts: bool) -> None:
        """The step's micro-batches are through; without `counts` the step is skipped."""

    # -- transformers' loop --------------------------------------------------------------------------------------------

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """One micro-batch; its loss goes into the mean that is logged when the step is known to be finite, not before.

        That mean is made on the CPU, where reading it waits for no GPU; what transformers adds to it is 0.
        """
        self._tr_loss = self._tr_loss.cpu()
        loss: Tensor = super().training_step(*args, **kwargs)
        self._losses.append(loss)
        if self.accelerator.sync_gradients:  # processes log together, and this is the one pass that all of them have
            self.settle()
        return torch.zeros(())

    def _get_grad_norm(self, model: torch.nn.Module, grad_norm: Any = None) -> Any:
        """The gradient norm; a step that is not finite changes nothing.

        transformers calls this once a step, after the last backward pass and before the optimiser. With fp16 the loss
        scaler meets and skips overflowing gradients as a matter of course, so there only the loss is looked at.
        """
        norm = super()._get_grad_norm(model, grad_norm)
        norm = whole(norm) if isinstance(norm, Tensor) else norm  # of a split model, each rank has a part
        looked_at = self._losses if self.args.fp16 else [*self._losses, norm]
        broken = self.ranks.sum(
            torch.stack([_not_finite(value, self.args.device) for value in looked_at]).any().float()
        )
        left = Left(
            self.state.global_step + 1,
            reading([broken, norm, *self._losses, *self.unread()]),
            len(self._losses),
            self._rows,
            self._counted,
        )
        self._losses, self._rows, self._counted = [], [], Counts()
        if not self.late:
            return self._judge(left)
        self._optimizer.found_inf = broken.clamp(max=1.0)
        self._left = left
        return norm

    def _maybe_log_save_evaluate(self, tr_loss: Tensor, grad_norm: Any, *args: Any, **kwargs: Any) -> None:
        """Upstream's; a step after which there is no more to do than to log it is logged when it is settled."""
        left = self._left
        if left is not None and left.log is None:  # it has just ended
            if not self._is_due():
                logs = self.control.should_log
                left.log = lambda norm: self._log_alone(norm, *args, **kwargs) if logs else None
                return
            self._left, grad_norm = None, self._judge(left)
        self.settle()
        super()._maybe_log_save_evaluate(self._tr_loss, grad_norm, *args, **kwargs)

    # -- a step that is over -------------------------------------------------------------------------------------------

    def _is_due(self) -> bool:
        """Whether what comes next needs the step's numbers."""
        asked = self.control
        return bool(asked.should_evaluate or asked.should_save or asked.should_epoch_stop or asked.should_training_stop)

    def settle(self) -> None:
        """Judge and log the step before, if that has not been done.

        Raises DivergedError where too many in a row were not finite.
        """
        left, self._left = self._left, None
        if left is not None:
            norm = self._judge(left)
            if left.log is not None:
                left.log(norm)

    def _log_alone(self, norm: float, *args: Any, **kwargs: Any) -> None:
        """Upstream's log, which is sent together with evaluation and saving, without these."""
        flags = {name: getattr(self.control, name) for name in ("should_log", "should_evaluate", "should_save")}
        self._ask({name: name == "should_log" for name in flags})
        super()._maybe_log_save_evaluate(self._tr_loss, norm, *args, **kwargs)
        self._ask(flags)

    def _ask(self, flags: dict[str, bool]) -> None:
        for name, value in flags.items():
            setattr(self.control, name, value)

    def _judge(self, left: Left) -> float:
        """Count the step, or make sure that it has changed nothing and tell; its gradient norm."""
        broken, norm, *others = left.numbers.result()
        loss = sum(others[: left.losses])
        self.read(others[left.losses :])
        self.counts = self.counts.plus(left.counts)
        self.end_step(counts=not broken)
        if not broken:
            self._skipped_in_a_row = 0
            self._tr_loss += loss
            return norm
        if not self.late:
            self._drop_gradients()
        elif isinstance(self._optimizer, AdamWBf16):
            self._optimizer.undo_count()  # torch's own keep their count on the device
        self._globalstep_last_logged += 1  # the mean loss that is logged next leaves this step out
        self._skipped_in_a_row += 1
        self._tell_skipped(left, loss, norm)
        return norm

    @property
    def _optimizer(self) -> Any:
        """The one that steps, of which accelerate makes another."""
        return getattr(self.optimizer, "optimizer", self.optimizer)

    def _drop_gradients(self) -> None:
        if self.is_deepspeed_enabled:
            self.optimizer.discard()
        else:
            self.model.zero_grad(set_to_none=True)

    def _tell_skipped(self, left: Left, loss: float, norm: float) -> None:
        """Say which rows a step had that changes nothing. Raises DivergedError when it is one too many."""
        places = [self.origins[row] for row in left.rows] if self.origins is not None else left.rows
        told = self.ranks.gather((loss, places))
        places = [place for _, some in told for place in some]
        loss = next((other for other, _ in told if not math.isfinite(other)), loss)
        why = f"loss {loss}" if not math.isfinite(loss) else f"gradient norm {norm}"
        self.events.write("skipped", step=left.step, why=why, rows=places)
        self.say.warning(f"step {left.step} skipped: {why}; its rows are in events.jsonl")
        if self._skipped_in_a_row == MAX_SKIPPED_IN_A_ROW:
            raise DivergedError(
                f"step {left.step}: {MAX_SKIPPED_IN_A_ROW} steps in a row were not finite (last: {why}; rows "
                f"{', '.join(places[:4])}{', ...' if len(places) > 4 else ''}); the last good checkpoint is kept; "
                f"lower optim.learning_rate or look at these rows"
            )


def _not_finite(value: Any, device: torch.device) -> Tensor:
    """Whether a number is, on that device and without dimensions."""
    number = value.detach() if isinstance(value, Tensor) else torch.tensor(float(value))
    return ~number.to(device, non_blocking=True).isfinite().reshape(())
