"""Methods that decompose the weights of the base when they are put on it: AdaMSS, FRoD, OSF, PSOFT.

What LAPACK makes of a matrix depends on the processor and on the number of threads: beside close singular values by
far more than rounding. peft writes a part of it into an adapter's file, and computes the rest anew wherever the adapter
is loaded.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftune.core.errors import CheckpointError
from ftune.core.paths import shown

if TYPE_CHECKING:
    from torch.nn import Module

DECOMPOSED = {"ADAMSS", "FROD", "OSF", "PSOFT"}
"""What peft calls them. All weights of the base have to be there."""

THREADS = 4
"""For decompositions, whatever the machine has."""

ROUNDING = 1e-3
"""A constant may differ by this much of its largest value."""


@contextmanager
def same_decompositions() -> Iterator[None]:
    """Inside, decompositions come out as on other machines with this kind of processor."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def follow_bases(model: "Module") -> None:
    """Let FRoD's U be that of the V which was loaded.

    FRoD writes a weight as W = U diag(l) V^T with one V for all weights of a kind. peft 0.21 saves V alone, and leaves
    a loaded V beside the U of the one that it has just computed itself.
    """
    from peft.tuners.frod.layer import FrodLayer

    for layer in model.modules():
        if isinstance(layer, FrodLayer):
            made: Any = layer
            weight = made.get_base_layer().weight
            for name, place in made.frod_U.items():
                u, _ = made._calculate_frod_u_and_lambda(made.frod_V[name], weight.T if made.fan_in_fan_out else weight)
                made.frod_U[name] = u.to(place.device, place.dtype)


def check_constants(model: "Module", checkpoint: Path) -> None:
    """Raises CheckpointError where the method's constants came out otherwise than in the run of this checkpoint."""
    from safetensors import safe_open

    file = checkpoint / "adapter_model.safetensors"
    if not file.exists():
        return
    constants = {name.replace(".default", ""): value for name, value in model.named_buffers()}
    with safe_open(file, framework="pt") as saved:
        for name in sorted(constants.keys() & saved.keys()):
            here, then = constants[name].cpu().float(), saved.get_tensor(name).float()
            if here.shape != then.shape or float((here - then).abs().max()) > ROUNDING * float(then.abs().max()):
                raise CheckpointError(
                    f"{shown(checkpoint)}: the method computes '{name}' from the base, and it comes out otherwise here "
                    "than where the run began; resume on a machine with that kind of processor, or start a new run "
                    "with output_dir=..."
                )
