"""What peft's own methods keep in memory beside the parameters that they train (peft 0.21).

Layer by layer, as (keys, r, i, o) -> numbers: r is the rank or what is in its place, i the inputs and o the outputs of
an adapted layer. What a forward pass keeps was seen with `torch.autograd.graph.saved_tensors_hooks`.
"""

from collections.abc import Callable, Mapping
from math import ceil
from typing import Any

Keys = Mapping[str, Any]
Each = Callable[[Keys, int, int, int], int]


def nothing(keys: Keys, r: int, i: int, o: int) -> int:
    """What most methods keep."""
    return 0


def low_rank(keys: Keys, r: int, i: int, o: int) -> int:
    """Two thin matrices, as in LoRA."""
    return r * (i + o)


def off_diagonal(keys: Keys, i: int) -> int:
    """FRoD's share of the places off the diagonal of a matrix as wide as the inputs."""
    share = min(int(i * i * keys["sparse_rate"]), i * i - i)
    return max(1, share) if keys["sparse_rate"] > 0 and i > 1 else max(0, share)


FROZEN: dict[str, Each] = {
    # a permutation of the inputs as a whole matrix, for each factor
    "boft": lambda keys, r, i, o: keys["boft_n_butterfly_factor"] * i * i,
    "delora": lambda keys, r, i, o: i,
    "frod": lambda keys, r, i, o: i * o,
    # where it started, and the vectors that stay on the larger side
    "osf": lambda keys, r, i, o: r * (i + o + 1) + (min(i, o) - r) * max(i, o) * (i != o),
    "psoft": low_rank,
    # indices, as 32-bit numbers; UniLoRA's are 64 bit and have a scale each
    "shira": lambda keys, r, i, o: 2 * r * (i + o),
    "supertuning": lambda keys, r, i, o: int(i * o * (1 - keys["sparsity"])),
    "tinylora": lambda keys, r, i, o: min(r, i, o) * (i + o) + keys["u"] * min(r, i, o) ** 2,
    "unilora": lambda keys, r, i, o: 3 * r * (i + o),
}
"""Numbers of 32 bit that stay as they are."""

NO_INPUT = {"adamss", "beft", "delora", "frod", "miss", "psoft", "pvera", "road", "tinylora", "vera"}
"""Methods that do not need the input of a layer for its gradients: it goes through what is frozen first."""

WIDTHS: dict[str, Each] = {
    **dict.fromkeys(("supertuning", "unilora", "vblora"), lambda keys, r, i, o: r),
    "deft": lambda keys, r, i, o: 2 * r,
    # before and after the blocks change places
    "gralora": lambda keys, r, i, o: 2 * r + keys["hybrid_r"],
    "lily": lambda keys, r, i, o: r + keys["num_B"],
    # before and after the singular values
    "osf": lambda keys, r, i, o: 2 * r,
}
"""Numbers a token between the input of a layer and its output, where the input is kept too."""

KEPT: dict[str, Each] = {
    "adamss": lambda keys, r, i, o: min(r, i, o) + min(keys["num_subspaces"], o) * keys["subspace_rank"],
    **dict.fromkeys(("boft", "deft"), lambda keys, r, i, o: o),
    "delora": lambda keys, r, i, o: i + 2 * r,
    "frod": lambda keys, r, i, o: i,
    "miss": lambda keys, r, i, o: 0 if keys["init_weights"] == "bat" else r,
    "psoft": lambda keys, r, i, o: r,
    "pvera": lambda keys, r, i, o: o + 4 * r,
    "randlora": lambda keys, r, i, o: r * ceil(o / r) if i > o else 0,
    "road": lambda keys, r, i, o: 2 * o,
    "tinylora": lambda keys, r, i, o: min(r, i, o),
    "vera": lambda keys, r, i, o: o + r,
}
"""Numbers a token beside those, over each adapted layer."""

DENSE: dict[str, Each] = {
    # the rotated weight; its rotation, and what its blocks are made of
    "boft": lambda keys, r, i, o: i * o + i * i + 5 * i * (keys["boft_block_size"] or i // keys["boft_block_num"]),
    **dict.fromkeys(("fourierft", "glora", "hira", "loha", "lokr", "shira"), lambda keys, r, i, o: i * o),
    # a matrix as wide as the inputs for each reflection
    "hra": lambda keys, r, i, o: i * o + (r + 1) * i * i,
    "miss": lambda keys, r, i, o: 2 * i * o if keys["init_weights"] == "bat" else 0,
    # singular vectors, and those times their values
    "osf": lambda keys, r, i, o: 2 * r * (i + o),
    "peanut": lambda keys, r, i, o: i * o + r * i * (1 + 2 * keys["depth"]),
    "randlora": lambda keys, r, i, o: r * ceil(min(i, o) / r) * min(i, o),
    # its indices are made 64 bit for each pass
    "supertuning": lambda keys, r, i, o: i * o + 2 * int(i * o * (1 - keys["sparsity"])),
    "waveft": lambda keys, r, i, o: 2 * i * o,
}
"""Numbers of matrices that a forward pass makes anew and keeps, however many tokens there are."""
