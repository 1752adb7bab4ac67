"""AdamW on weights and moments in bf16, which are rounded stochastically (arXiv:2010.06192).

A bf16 number has 8 significant bits, and the next one is 0.4 to 0.8 % away. Rounded to the nearest one, a weight never
feels the changes of fine-tuning, which are far smaller; nor does the mean of squares, of which a step renews 0.1 %.
Rounded up or down with odds that leave the mean where it was, small changes arrive in as many steps as it takes, and
what rounding leaves is noise.

A trained parameter takes 8 bytes: weight, gradient and two moments of 2 bytes each, where weights in fp32 take 16.
Gradients are bf16 too, and so is the sum of those of several micro-batches: it is rounded to the nearest with each.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ftune.rl.fused import fused

LANES = 128
"""Numbers of a row: of any number of such rows, a compiled kernel knows that it can read several numbers at once."""

PIECES = {"cuda": 2**24, "cpu": 2**18}
"""Numbers that are stepped on at once: where no kernel is compiled, a dozen copies of them stand beside them."""

ALIGNED = 4
"""Numbers of 32 bits in 16 bytes: compiled kernels copy what does not begin at a multiple of them."""


class Piece(NamedTuple):
    """A part of a parameter, with what belongs to it; all bf16, all of one shape."""

    weight: Tensor
    gradient: Tensor
    mean: Tensor
    """Of gradients."""
    square: Tensor
    """The mean of their squares."""


class Numbers(NamedTuple):
    """What all parameters of a group share in a step, on their device, where no kernel waits for it."""

    decay: Tensor
    """Learning rate times weight decay."""
    step_size: Tensor
    """Learning rate / (1 - beta1^t), which corrects a mean that began at zero (Adam, arXiv:1412.6980, section 3)."""
    square_scale: Tensor
    """sqrt(1 - beta2^t), the same correction for the mean of squares."""
    words: Tensor
    """Random 32 bits for each piece of the parameters, shape (pieces,)."""
    keep: Tensor
    """Whether the step is not to change anything."""


class AdamWBf16(torch.optim.Optimizer):
    """The steps of `torch.optim.AdamW` (decoupled weight decay, arXiv:1711.05101), made in fp32 from numbers in bf16.

    The moments that make a step are not rounded yet. Random bits follow from `seed` and a parameter's count of steps
    alone: replicas round alike, and a run that is resumed goes on as if it had never stopped.
    """

    found_inf: Tensor | None = None
    """Not 0 where a gradient is not finite, and a step is to change nothing: as torch's fused optimisers take it."""

    def __init__(
        self,
        params: Any,
        lr: float,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        seed: int = 0,
    ) -> None:
        """`lr` is the learning rate. Raises ValueError for parameters that are not contiguous and bf16."""
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "seed": seed})
        for parameter in self._parameters():
            if parameter.dtype != torch.bfloat16 or not parameter.is_contiguous():
                raise ValueError(f"a parameter is {parameter.dtype} or not contiguous; all have to be plain bf16")

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Change each parameter that has a gradient, in place."""
        self._stepped = list[Tensor]()
        total = sum(_count(parameter) for parameter in self._parameters())
        first = 0  # of the parameter's pieces, among those of all
        for group in self.param_groups:
            made: dict[int, Numbers] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    at = self._next(parameter)
                    if at not in made:
                        made[at] = _numbers(group, at, total, parameter.device, self.found_inf)
                    self._change(parameter, group, made[at], first)
                first += _count(parameter)

    def undo_count(self) -> None:
        """The last step was one with `found_inf`: it does not count."""
        for parameter in self._stepped:
            self.state[parameter]["step"] -= 1

    def _parameters(self) -> Iterator[Tensor]:
        for group in self.param_groups:
            yield from group["params"]

    def _next(self, parameter: Tensor) -> int:
        """The parameter's count of steps, with this one."""
        state = self.state[parameter]
        if not state:
            state |= {"step": 0, "exp_avg": torch.zeros_like(parameter), "exp_avg_sq": torch.zeros_like(parameter)}
        state["step"] += 1
        self._stepped.append(parameter)
        at: int = state["step"]
        return at

    def _change(self, parameter: Tensor, group: dict[str, Any], numbers: Numbers, first: int) -> None:
        state, change = self.state[parameter], fused(_change, parameter.device.type)
        of_each = parameter.detach(), parameter.grad, state["exp_avg"], state["exp_avg_sq"]
        for number, piece in enumerate(zip(*(_pieces(one) for one in of_each), strict=True), start=first):
            change(Piece(*piece), numbers.words[number], numbers, group["betas"], group["eps"])


def _numbers(group: dict[str, Any], step: int, pieces: int, device: torch.device, found_inf: Tensor | None) -> Numbers:
    """Filled in on the device: a copy from the CPU would wait for all that the device has still to do."""
    beta1, beta2 = group["betas"]
    scalars = group["lr"] * group["weight_decay"], group["lr"] / (1 - beta1**step), (1 - beta2**step) ** 0.5
    generator = torch.Generator(device).manual_seed(group["seed"] + step)
    words = torch.randint(-(2**31), 2**31, (pieces, ALIGNED), generator=generator, device=device, dtype=torch.int32)
    decay, step_size, square_scale = (torch.full((), value, device=device) for value in scalars)
    keep = torch.zeros((), dtype=torch.bool, device=device) if found_inf is None else found_inf > 0
    return Numbers(decay, step_size, square_scale, words[:, 0], keep)


def _count(parameter: Tensor) -> int:
    """Of a parameter's pieces."""
    return -(-parameter.numel() // PIECES[parameter.device.type])


def _pieces(value: Any) -> tuple[Tensor, ...]:
    """Views on all of a tensor, one behind the other."""
    width = 1 if value.numel() % LANES else LANES
    pieces: tuple[Tensor, ...] = value.reshape(-1, width).split(PIECES[value.device.type] // width)
    return pieces


def _change(piece: Piece, word: Tensor, numbers: Numbers, betas: tuple[float, float], eps: float) -> None:
    """One step of a piece and its moments, all in place; `word` is the piece's own of the random ones."""
    (beta1, beta2), gradient = betas, piece.gradient.float()
    mean = piece.mean.float() + (1 - beta1) * (gradient - piece.mean.float())
    square = beta2 * piece.square.float() + (1 - beta2) * gradient * gradient
    change = numbers.decay * piece.weight.float() + numbers.step_size * mean / (
        square.sqrt() / numbers.square_scale + eps
    )
    places = torch.arange(piece.weight.numel(), device=word.device, dtype=torch.int32).view(piece.weight.shape)
    bits = scrambled(places ^ word)
    rounded = (
        stochastically_rounded(piece.weight.float() - change, bits),
        stochastically_rounded(mean, bits >> 16),
        stochastically_rounded(square, scrambled(bits)),
    )
    for kept, new in zip((piece.weight, piece.mean, piece.square), rounded, strict=True):
        kept.copy_(torch.where(numbers.keep, kept, new))


def stochastically_rounded(value: Tensor, bits: Tensor) -> Tensor:
    """One of the two bf16 numbers next to each fp32 number: the one above with the odds of how near it is.

    Of `bits`, int32, the lower 16 are looked at: added to the 16 that bf16 has not, they carry over as often as those
    say. Numbers that bf16 has stay what they are, infinite ones and NaN too.
    """
    moved = (value.view(torch.int32) + (bits & 0xFFFF)) & -0x10000
    rounded: Tensor = torch.where(value.isfinite(), moved.view(torch.float32), value)
    return rounded.to(torch.bfloat16)


def scrambled(bits: Tensor) -> Tensor:
    """A permutation of the int32 numbers that looks like chance.

    Neighbours, and numbers apart by one bit, become independent ("lowbias32" of C. Wellons' hash-prospector, which is
    public domain). It costs a tenth of torch's own random numbers, and is the same on every device.
    """
    bits = (bits ^ _shifted(bits, 16)) * 0x7FEB352D
    bits = (bits ^ _shifted(bits, 15)) * (0x846CA68B - 2**32)
    return bits ^ _shifted(bits, 16)


def _shifted(bits: Tensor, by: int) -> Tensor:
    """To the right, zeros from the left."""
    return torch.bitwise_right_shift(bits, by) & ((1 << 32 - by) - 1)
