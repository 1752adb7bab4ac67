"""What peft's own methods keep in memory beside the parameters that they train (peft 0.21).

Layer by layer, as (keys, r, i, o) -> numbers: r is the rank or what is in its place, i the inputs and o the outputs of
an adapted layer. What a forward pass keeps was seen with `torch.autograd.graph.saved_tensors_hooks`: the model is bf16,
adapters are fp32, and autocast makes products in bf16. It remembers copies of what trains alone, which are counted with
the weights; frozen projections that are sliced or buffers are copied anew for each layer, and the copies are kept.
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
    # a permutation of the inputs as a whole matrix; one, as more factors are only made with CUDA's compiler at hand
    "boft": lambda keys, r, i, o: i * i,
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

NO_INPUT = {"adamss", "beft", "c3a", "delora", "frod", "miss", "psoft", "pvera", "road", "tinylora", "vera"}
"""Methods that do not need the input of a layer for its gradients: it goes through what is frozen first."""

SHARES_INPUTS = {"boft", "glora", "hra", "loha", "peanut", "shira", "supertuning", "waveft"}
"""Methods that make a weight in the dtype of products, or turn the input in it: they read what the layer itself would,
and do not cast it to fp32 before."""

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
    # the copy of the input that the hybrid part reads
    "gralora": lambda keys, r, i, o: i * (keys["hybrid_r"] > 0),
    "miss": lambda keys, r, i, o: 0 if keys["init_weights"] == "bat" else r,
    "psoft": lambda keys, r, i, o: r,
    "pvera": lambda keys, r, i, o: o + 2 * r,
    "randlora": lambda keys, r, i, o: r * ceil(o / r) if i > o else 0,
    "tinylora": lambda keys, r, i, o: min(r, i, o),
    "vera": lambda keys, r, i, o: o + r,
}
"""Numbers a token beside those, over each adapted layer."""

KEPT_FP32: dict[str, Each] = {
    # its input, since Fourier transforms are made in fp32
    "c3a": lambda keys, r, i, o: i,
    # the noise and the deviations that it is multiplied with
    "pvera": lambda keys, r, i, o: 2 * r,
    # the output twice, for each of the two vectors
    "road": lambda keys, r, i, o: 2 * o,
}
"""Of the same kind, those that are kept in fp32."""


def oft_blocks(keys: Keys, r: int, i: int) -> tuple[int, int]:
    """How many blocks OFT rotates so many inputs in, and how wide each is."""
    blocks = _near_divisor(i, r) if r else i // _near_divisor(i, keys["oft_block_size"])
    return blocks, i // blocks


def _near_divisor(size: int, wanted: int) -> int:
    """The divisor of `size` next to `wanted`, the lower one of two."""
    if wanted >= size:
        return size
    return min((d for d in range(1, size + 1) if size % d == 0), key=lambda d: (abs(d - wanted), d))


def _oft_powers(keys: Keys, r: int, i: int, o: int) -> int:
    """The rotation, and both factors of each product that makes its power series (Cayley-Neumann)."""
    blocks, size = oft_blocks(keys, r, i)
    products = max(2, keys["num_cayley_neumann_terms"] - 2) if keys["use_cayley_neumann"] else 0
    return (1 if keys["block_share"] else blocks) * size * size * (1 + 2 * products)


DENSE: dict[str, Each] = {
    # a frozen projection as it was cast
    "adamss": lambda keys, r, i, o: min(r, i, o) * i,
    # the rotation, and what its gradient comes through: the permutation as it was cast, and an identity
    "boft": lambda keys, r, i, o: 3 * i * i,
    # the projection and what goes back through it, made orthonormal
    "deft": low_rank,
    # a frozen matrix as it was cast
    "frod": lambda keys, r, i, o: i * o,
    **dict.fromkeys(("fourierft", "glora", "hira", "loha", "lokr", "shira"), lambda keys, r, i, o: i * o),
    # a matrix as wide as the inputs for each reflection
    "hra": lambda keys, r, i, o: i * o + (r + 1) * i * i,
    # all experts as they were cast, and the one that they make together
    "lily": lambda keys, r, i, o: (keys["num_B"] + 1) * r * o,
    "miss": lambda keys, r, i, o: 2 * i * o if keys["init_weights"] == "bat" else 0,
    # singular vectors, and those times their values
    "oft": _oft_powers,
    "osf": lambda keys, r, i, o: 2 * r * (i + o),
    # the update, and the weight that it is made of as it was cast
    "peanut": lambda keys, r, i, o: 2 * i * o,
    # the frozen projections as they were cast
    "psoft": low_rank,
    "pvera": lambda keys, r, i, o: r * (2 * i + o),
    # both bases: the small one with its scales, and the large one as it was cast
    "randlora": lambda keys, r, i, o: r * ceil(min(i, o) / r) * (i + o),
    "supertuning": lambda keys, r, i, o: i * o,
    "tinylora": lambda keys, r, i, o: min(r, i, o) * (i + o),
    # both made of numbers that all layers share
    **dict.fromkeys(("unilora", "vblora"), low_rank),
    "vera": low_rank,
    "waveft": lambda keys, r, i, o: 2 * i * o,
}
"""Numbers of matrices that a pass makes anew and keeps in the dtype of products, however many tokens there are."""

DENSE_FP32: dict[str, Each] = {
    # what its blocks are solved from
    "boft": lambda keys, r, i, o: 5 * i * (keys["boft_block_size"] or i // keys["boft_block_num"]),
    # the orthonormal projection before it is cast
    "deft": lambda keys, r, i, o: r * o,
    # its indices are made 64 bit for each pass
    "supertuning": lambda keys, r, i, o: 2 * int(i * o * (1 - keys["sparsity"])),
}
"""Of the same kind, those that are kept in fp32."""

PASSING: dict[str, Each] = {
    # its blocks in one matrix, and that permuted
    "boft": lambda keys, r, i, o: 2 * i * i,
}
"""Numbers of matrices that come and go at once while a layer is computed or its gradients, in the dtype of products."""

PASSING_FP32: dict[str, Each] = {
    # the spectrum and its transform are complex
    "fourierft": lambda keys, r, i, o: 4 * i * o,
    # an identity, the product of reflections so far and with one more
    "hra": lambda keys, r, i, o: 3 * i * i,
    # the weight's gradient, one factor of the Hadamard product made again, and their product
    "loha": lambda keys, r, i, o: 3 * i * o,
    # the gradient of the Kronecker product, and that in the order of its factors
    "lokr": lambda keys, r, i, o: 2 * i * o,
}
"""The same in fp32."""
