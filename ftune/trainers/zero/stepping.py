"""DeepSpeed's step apart from its backward pass: in between it is decided whether there is a step at all.

accelerate 1.15 lets DeepSpeed step at the end of the last backward pass of a step, so that a loss or a gradient that is
not finite is seen when it is too late. Here the pass is only a pass, the norm of its gradients is known behind it, and
the step is where transformers' loop has it.
"""

from typing import Any

import torch
from accelerate.utils import DeepSpeedEngineWrapper, DeepSpeedOptimizerWrapper
from deepspeed.runtime.utils import combine_grad_norm_groups
from deepspeed.runtime.zero.stage3 import DeepSpeedZeroOptimizer_Stage3
from transformers import Trainer

INVALID = -1.0
"""DeepSpeed's word for a norm that is not finite: it leaves such a step out, whatever the gradients are."""


def step_apart(trainer: Trainer) -> "ZeroStep":
    """Let `trainer`, whose engine has just been made, step where its loop does; what is its optimiser from now on."""
    accelerator = trainer.accelerator
    step = ZeroStep(trainer.deepspeed, trainer.optimizer)
    accelerator.deepspeed_engine_wrapped = _Passes(trainer.deepspeed, step)
    accelerator._optimizers = [step if one is trainer.optimizer else one for one in accelerator._optimizers]
    trainer.optimizer = step
    return step


class ZeroStep(DeepSpeedOptimizerWrapper):
    """The optimiser that transformers' loop sees."""

    def __init__(self, engine: Any, before: DeepSpeedOptimizerWrapper) -> None:
        """`before` is accelerate's own, which does nothing: a schedule counts its steps."""
        super().__init__(before.optimizer)
        self._engine, self._before = engine, before
        self._discarded = False

    def norm(self) -> float:
        """That of all gradients of the step, before clipping, over all ranks; nan where it is not finite.

        To be called on all ranks, once, between the last backward pass of a step and the step. DeepSpeed takes the
        same number to clip by.
        """
        zero = self.optimizer
        if isinstance(zero, DeepSpeedZeroOptimizer_Stage3):
            groups = zero._get_norm_groups()
            zero._get_norm_groups = lambda: groups
            scaled = float(combine_grad_norm_groups(groups))
        else:
            norm = zero.scaled_global_norm()
            zero.scaled_global_norm = lambda norm_type=2: norm
            scaled = float(norm)
        return scaled / zero.loss_scale if 0 <= scaled < float("inf") else float("nan")

    def discard(self) -> None:
        """Let the next step be none: the gradients go, and nothing else changes. To be called on all ranks."""
        self._discarded = True
        invalid = torch.tensor(INVALID, device=self.optimizer.device)
        self.optimizer._get_norm_groups = lambda: [invalid]
        self.optimizer.scaled_global_norm = lambda norm_type=2: invalid

    def step(self, closure: Any = None) -> None:
        """DeepSpeed's clipping, step and exchange of weights."""
        zero: Any = self.optimizer
        scaler = dict(vars(zero.loss_scaler))
        self._engine.step()
        if self._discarded:
            vars(zero.loss_scaler).update(scaler)
        for name in ("_get_norm_groups", "scaled_global_norm"):
            zero.__dict__.pop(name, None)
        self._skipped = bool(zero.overflow) and not self._discarded
        self._discarded = False
        self._before.step()

    _skipped = False

    @property
    def step_was_skipped(self) -> bool:
        """Whether fp16 overflowed; a schedule then waits, where it goes on behind a step that was discarded."""
        return self._skipped


class _Passes(DeepSpeedEngineWrapper):
    """What accelerate calls for a backward pass."""

    def __init__(self, engine: Any, step: ZeroStep) -> None:
        super().__init__(engine)
        self._step = step

    def backward(self, loss: torch.Tensor, sync_gradients: bool = True, **kwargs: Any) -> None:
        """Gradients of a micro-batch, exchanged over the ranks; behind the last one of a step no step."""
        self.engine.set_gradient_accumulation_boundary(is_boundary=sync_gradients)
        self.engine.backward(loss, **kwargs)

    def get_global_grad_norm(self) -> float:
        """The norm before clipping."""
        return self._step.norm()
