"""How many parameters peft's own methods train, by arithmetic: what peft 0.21 makes when it wraps a model.

Where a method counts layer by layer, `EACH` has its formula: i inputs, o outputs, r the rank (or what is in its place)
that the layer gets, patterns included.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from math import ceil, isqrt

from ftune.core.errors import ModelError
from ftune.peft import library_memory as memory
from ftune.peft.library_memory import Each, Keys, low_rank, off_diagonal, oft_blocks
from ftune.peft.library_wrap import VALUES
from ftune.peft.places import Linears, adapted, linears, parts, trained, value_at
from ftune.peft.shadow_planned import shadow
from ftune.peft.targets import choose, find_patterns
from ftune.peft.virtual_tokens import prefixes
from ftune.plan.adapter import Adapter
from ftune.plan.shape import Linear, ModelShape, Norm

RANKS = {"c3a": "block_size", "fourierft": "n_frequency", "waveft": "n_frequency"}
"""The key that layers may have other values of by pattern, where it is not `r`."""

NO_CONV1D = {
    *("adamss", "beft", "boft", "c3a", "delora", "glora", "hra", "lily", "loha"),
    *("lokr", "miss", "oft", "osf", "peanut", "psoft", "road", "shira", "supertuning"),
}
"""Methods that peft 0.21 does not have for the layers of GPT-2; OSF makes nothing there trainable, without a word."""


def planned(shape: ModelShape, name: str, keys: Keys) -> Adapter:
    """What the method `name` trains with these keys."""
    if name in NO_CONV1D and shape.family == "gpt2":
        raise ModelError(f"peft.type: {name} does not go on the Conv1D layers of a GPT-2; use 'peft: lora'")
    saves = keys.get("modules_to_save") or ()
    if name in WHOLE:
        return WHOLE[name](shape, keys)
    found = _adapted(shape, name, keys)
    ranks = _ranks(shape, name, keys, found)
    counts = LAYERWISE[name](keys, found, ranks) if name in LAYERWISE else _each(EACH[name], keys, found, ranks)
    reading = {path: linear for path, linear in found.items() if _reads(name, keys, linear)}
    widths = _each(memory.WIDTHS.get(name, memory.nothing), keys, reading, ranks)

    def each(table: Mapping[str, Each]) -> list[int]:
        return list(_each(table.get(name, memory.nothing), keys, found, ranks).values())

    planned = trained(
        shape,
        counts,
        widths=widths,
        modules_to_save=saves,
        shared=SHARED[name](keys, found) if name in SHARED else 0,
        frozen=sum(each(memory.FROZEN)) + (FROZEN_SHARED[name](keys, found) if name in FROZEN_SHARED else 0),
        saved=sum(each(memory.KEPT)),
        saved_fp32=sum(each(memory.KEPT_FP32)),
    )
    return replace(
        planned,
        shares_inputs=name in memory.SHARES_INPUTS,
        dense_fp32=sum(each(memory.DENSE_FP32)),
        passing=max(each(memory.PASSING)),
        passing_fp32=max(each(memory.PASSING_FP32)),
    )


def dense(shape: ModelShape, name: str, keys: Keys) -> int:
    """Numbers in the weights, or as large matrices, that a pass makes anew and keeps in the dtype of products."""
    if name not in memory.DENSE:
        return 0
    found = _adapted(shape, name, keys)
    return sum(_each(memory.DENSE[name], keys, found, _ranks(shape, name, keys, found)).values())


def _ranks(shape: ModelShape, name: str, keys: Keys, found: Linears) -> dict[str, int]:
    """The rank of each layer, or what is in its place. Raises ModelError for a pattern that fits no layer."""
    for other in keys:
        if other.endswith("_pattern"):
            find_patterns(list(linears(shape)), other, keys[other] or ())
    if name == "osf":
        return _trained_ranks(keys, found)
    key = RANKS.get(name, "r")
    patterns = keys.get("rank_pattern" if key == "r" else f"{key}_pattern") or {}
    return {path: value_at(path, patterns, keys.get(key) or 0) for path in found}


def _reads(name: str, keys: Keys, linear: Linear) -> bool:
    """Whether the backward pass needs the input of an adapted layer: not where a frozen projection reads it."""
    if name == "randlora":
        return linear.inputs <= linear.outputs
    return name not in memory.NO_INPUT or (name == "miss" and keys["init_weights"] == "bat")


def _adapted(shape: ModelShape, name: str, keys: Keys) -> dict[str, Linear]:
    """The linear layers that the method goes on."""
    targets = keys["target_modules"]
    if name == "beft" and targets == "auto":
        targets = [leaf for leaf in choose(list(linears(shape)), "auto") if leaf in VALUES]
        if not targets:
            raise ModelError(
                "peft.target_modules: name the layers that make attention's values; 'auto' knows none here"
            )
    return adapted(shape, targets, keys.get("layers"), keys.get("modules_to_save") or ())


def _each(formula: Each, keys: Keys, found: Linears, ranks: Mapping[str, int]) -> dict[str, int]:
    return {path: formula(keys, ranks[path], linear.inputs, linear.outputs) for path, linear in found.items()}


def _lokr(keys: Keys, r: int, i: int, o: int) -> int:
    """Kronecker factors, the larger one (and the smaller with `decompose_both`) of low rank if that makes it less."""
    (a, b), (c, d) = (_factors(size, keys["decompose_factor"]) for size in (o, i))
    first = r * (a + c) if keys["decompose_both"] and r < max(a, c) / 2 else a * c
    return first + (r * (b + d) if r < max(b, d) / 2 else b * d)


def _factors(size: int, wanted: int) -> tuple[int, int]:
    """`wanted` and its cofactor, or the two factors of `size` that are closest, at most `wanted` in the smaller one."""
    if wanted > 0 and size % wanted == 0:
        return wanted, size // wanted
    most = isqrt(size) if wanted == -1 else min(wanted, isqrt(size))
    small = next(factor for factor in range(most, 0, -1) if size % factor == 0)
    return small, size // small


def _oft(keys: Keys, r: int, i: int, o: int) -> int:
    """The upper triangle of each block's skew-symmetric matrix; one block stands for all with `block_share`."""
    blocks, size = oft_blocks(keys, r, i)
    return (1 if keys["block_share"] else blocks) * (size * (size - 1) // 2)


def _boft(keys: Keys, r: int, i: int, o: int) -> int:
    """Blocks of each butterfly factor, and a scale for each output.

    peft 0.21 takes one factor only where it cannot build its CUDA kernel: then it is less.
    """
    blocks = keys["boft_block_num"] or i // keys["boft_block_size"]
    return int(keys["boft_n_butterfly_factor"] * i * (i // blocks)) + o


def _miss(keys: Keys, r: int, i: int, o: int) -> int:
    if keys["init_weights"] == "bat":
        return o // r * r * r
    return int(r * (keys["mini_r"] if keys["init_weights"] == "mini" else o))


def _psoft(keys: Keys, r: int, i: int, o: int) -> int:
    """A rotation between two frozen projections, and magnitudes before and behind it."""
    rotation = r * (r - 1) // 2 if keys["psoft_orth"] else r * r
    return int(rotation + r * (keys["psoft_mag_a"] + keys["psoft_mag_b"]))


def _randlora(keys: Keys, r: int, i: int, o: int) -> int:
    """Scales of as many random bases of rank r as make up the full rank."""
    bases = ceil(min(i, o) / r)
    return bases * (r + min(i, o))


def _deft(keys: Keys, r: int, i: int, o: int) -> int:
    return min(r, o) * (o + (0 if keys["para"] else i))


def _frod(keys: Keys, r: int, i: int, o: int) -> int:
    """Diagonal and a share of what is off it, both as wide as the inputs."""
    return i + off_diagonal(keys, i)


def _supertuning(keys: Keys, r: int, i: int, o: int) -> int:
    return int(i * o * (1 - keys["sparsity"])) + r * (i + o)


EACH: dict[str, Each] = {
    **dict.fromkeys(("gralora", "hira", "shira"), low_rank),
    "beft": lambda keys, r, i, o: o,
    "boft": _boft,
    "c3a": lambda keys, r, i, o: i // r * o,
    "deft": _deft,
    "delora": lambda keys, r, i, o: r * (i + o) + 1,
    "fourierft": lambda keys, r, i, o: r,
    "frod": _frod,
    "gralora": lambda keys, r, i, o: (r + keys["hybrid_r"]) * (i + o),
    "hra": lambda keys, r, i, o: r * i,
    "loha": lambda keys, r, i, o: 2 * r * (i + o),
    "lokr": _lokr,
    "miss": _miss,
    "oft": _oft,
    "osf": lambda keys, r, i, o: r * (i + o + 1),
    "peanut": lambda keys, r, i, o: 2 * r * o + 2 * keys["depth"] * r * r,
    "psoft": _psoft,
    "pvera": lambda keys, r, i, o: o + 2 * r,
    "randlora": _randlora,
    "road": lambda keys, r, i, o: 2 * {"road_1": o // 2, "road_2": o, "road_4": 2 * o}[keys["variant"]],
    "supertuning": _supertuning,
    "unilora": lambda keys, r, i, o: 0,
    "vblora": lambda keys, r, i, o: r * ((i + o) // keys["vector_length"]) * keys["num_vectors"],
    "vera": lambda keys, r, i, o: o + r,
}
"""What trains in each adapted layer."""


def _adamss(keys: Keys, found: Linears, ranks: Mapping[str, int]) -> dict[str, int]:
    """Rows in clusters, each with a matrix to its rank and one from it.

    A bound: how many rows a cluster has, which caps its rank, depends on the weights; `use_dynamic_rank` lowers it too.
    """
    counts = {}
    for path, linear in found.items():
        clusters = min(keys["num_subspaces"], linear.outputs)
        columns = min(ranks[path], linear.outputs, linear.inputs + linear.bias)
        counts[path] = keys["subspace_rank"] * (clusters * columns + linear.outputs)
    return counts


def _glora(keys: Keys, found: Linears, ranks: Mapping[str, int]) -> dict[str, int]:
    """A and B change the weight; C, D and E the bias, so they are there where it is."""
    counts = {}
    for path, linear in found.items():
        r, i, o = ranks[path], linear.inputs, linear.outputs
        counts[path] = 2 * {"lora": r * (i + o), "vector": o, "constant": 1, "none": 0}[keys["config_A_B"]]
        if linear.bias:
            counts[path] += {"lora": r * (i + 1), "vector": i, "none": 0}[keys["config_C"]]
            counts[path] += 2 * {"vector": o, "constant": 1, "none": 0}[keys["config_D_E"]]
    return counts


def _trained_ranks(keys: Keys, found: Linears) -> dict[str, int]:
    """How many singular values of each layer train in OSF: all but `effective_rank`, a number or a share of them."""
    ranks = {}
    patterns: Mapping[str, float] = keys["rank_pattern"] or {}
    for path, linear in found.items():
        most = min(linear.inputs, linear.outputs)
        asked = next((value for key, value in patterns.items() if re.search(key, path)), keys["effective_rank"])
        share = isinstance(asked, float) and 0 < asked <= 1
        ranks[path] = most - (most // 2 if asked is None else min(most, int(most * asked if share else asked)))
    return ranks


def _lily(keys: Keys, found: Linears, ranks: Mapping[str, int]) -> dict[str, int]:
    """A router a layer; layers of one name and size share B, and `stride_A` of them in a row A."""
    counts, seen = {}, dict[tuple[str, int, int], int]()
    for path, linear in found.items():
        kind = (path.rpartition(".")[2], linear.inputs, linear.outputs)
        before = seen.get(kind, 0)
        seen[kind] = before + 1
        r, experts = ranks[path], keys["num_B"]
        first_of_stride = before % keys["stride_A"] == 0
        counts[path] = r * experts + r * linear.inputs * first_of_stride + r * experts * linear.outputs * (not before)
    return counts


def _tinylora(keys: Keys, found: Linears, ranks: Mapping[str, int]) -> dict[str, int]:
    """A vector of u numbers for each group of neighbouring layers."""
    groups = max(1, round(len(found) * (1 - keys["weight_tying"])))
    size = max(1, len(found) // groups)
    places = [min(place // size, groups - 1) for place in range(len(found))]
    return {path: keys["u"] * (places[place] not in places[:place]) for place, path in enumerate(found)}


def _waveft(keys: Keys, found: Linears, ranks: Mapping[str, int]) -> dict[str, int]:
    """So many coefficients a layer, or by the size of the layers with the same sum."""
    if not keys["proportional_parameters"]:
        return dict(ranks)
    total = sum(linear.weights for linear in found.values())
    budget = keys["n_frequency"] * len(found)
    return {path: max(1, round(linear.weights / total * budget)) for path, linear in found.items()}


LAYERWISE: dict[str, Callable[[Keys, Linears, Mapping[str, int]], dict[str, int]]] = {
    "adamss": _adamss,
    "glora": _glora,
    "lily": _lily,
    "tinylora": _tinylora,
    "waveft": _waveft,
}
"""What trains in each adapted layer, where it depends on the others or on more than their sizes."""

SHARED: dict[str, Callable[[Keys, Linears], int]] = {
    "unilora": lambda keys, found: keys["theta_d_length"],
    "vblora": lambda keys, found: keys["num_vectors"] * keys["vector_length"],
}
"""What trains once for all layers."""


def _projections(keys: Keys, found: Linears) -> int:
    """Random A and B that all layers share, large enough for the largest of them."""
    inputs, outputs = (max(getattr(linear, side) for linear in found.values()) for side in ("inputs", "outputs"))
    return int(keys["r"] * (inputs + outputs))


def _randlora_bases(keys: Keys, found: Linears) -> int:
    sizes = [max(getattr(linear, side) for linear in found.values()) for side in ("inputs", "outputs")]
    return int(keys["r"] * (min(sizes) + max(sizes) * ceil(min(sizes) / keys["r"])))


def _frod_bases(keys: Keys, found: Linears) -> int:
    """A matrix, and places off its diagonal (two 64-bit indices), for each kind of layer."""
    kinds = {".".join(path.split(".")[-2:]): linear.inputs for path, linear in found.items()}
    return sum(inputs * inputs + 4 * off_diagonal(keys, inputs) for inputs in kinds.values())


FROZEN_SHARED: dict[str, Callable[[Keys, Linears], int]] = {
    "frod": _frod_bases,
    "pvera": lambda keys, found: _projections(keys, found) + keys["r"] * max(one.inputs for one in found.values()),
    "randlora": _randlora_bases,
    "vera": _projections,
}
"""What all layers share that does not train."""


def _adaption_prompt(shape: ModelShape, keys: Keys) -> Adapter:
    """A prompt as wide as the model, and a gate, for each of the last layers."""
    count = keys["adapter_layers"]
    if count > shape.layers:
        raise ModelError(f"peft.adapter_layers: {count} are more than the model's {shape.layers} layers")
    chosen = [f"{shape.layer_path}.{index}" for index in range(shape.layers - count, shape.layers)]
    return trained(shape, dict.fromkeys(chosen, keys["adapter_len"] * shape.hidden + 1))


def _cartridge(shape: ModelShape, keys: Keys) -> Adapter:
    """Keys and values, the first of which stay."""
    return prefixes(shape, keys["num_virtual_tokens"], None, keys["num_frozen_tokens"])


def _ln_tuning(shape: ModelShape, keys: Keys) -> Adapter:
    """A copy of each norm."""
    norms = {path: part.parameters for path, part in parts(shape).items() if isinstance(part, Norm)}
    kept = shape.layers * sum(norm.width for norm in shape.layer_norms)
    return trained(shape, norms, modules_to_save=keys["modules_to_save"] or (), saved=kept)


def _trainable_tokens(shape: ModelShape, keys: Keys) -> Adapter:
    """Rows of the embedding; one that is named twice trains twice."""
    table = shape.embeddings[0]
    numbers = len(keys["token_indices"]) * table.width
    return trained(shape, {table.name: numbers}, frozen=numbers)


WHOLE: dict[str, Callable[[ModelShape, Keys], Adapter]] = {
    "adaption_prompt": _adaption_prompt,
    "cartridge": _cartridge,
    "ln_tuning": _ln_tuning,
    "shadow": shadow,
    "trainable_tokens": _trainable_tokens,
}
"""Methods that are not on linear layers."""
