"""What a model of a shape has, module by module: what `targets` looks up in a model, without the model."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Literal, TypeAlias

from ftune.peft.targets import HEADS, choose, find_layers, find_modules
from ftune.plan.adapter import Adapter
from ftune.plan.shape import Embedding, Linear, ModelShape, Norm

Part: TypeAlias = Linear | Norm | Embedding
Linears: TypeAlias = Mapping[str, Linear]
"""Linear layers by their full names."""


def classifier(shape: ModelShape, labels: int) -> ModelShape:
    """The shape as a sequence classification model: in place of the head, one without biases for so many labels."""
    return replace(shape, head=Linear("score", shape.head.inputs, labels), tied=False)


def parts(shape: ModelShape) -> dict[str, Part]:
    """All modules with parameters of their own, by their full names."""
    before: tuple[Part, ...] = (*shape.embeddings, *shape.outer_linears)
    inside: tuple[Part, ...] = (*shape.layer_linears, *shape.layer_norms)
    after: tuple[Part, ...] = (*shape.last_norms, shape.head)
    layers = [f"{shape.layer_path}.{index}" for index in range(shape.layers)]
    found = {part.name: part for part in before}
    found |= {f"{layer}.{part.name}": part for layer in layers for part in inside}
    return found | {part.name: part for part in after}


def linears(shape: ModelShape) -> dict[str, Linear]:
    """The linear layers, without the output head."""
    return {path: part for path, part in parts(shape).items() if isinstance(part, Linear) and part is not shape.head}


def adapted(
    shape: ModelShape,
    target_modules: Literal["auto"] | Sequence[str],
    layers: Sequence[int] | None = None,
    modules_to_save: Iterable[str] = (),
) -> dict[str, Linear]:
    """The linear layers that peft adapts when it is given these names.

    A full name is adapted whatever `layers` says, and nothing in a module of `modules_to_save` (peft 0.21,
    `check_target_module_exists`). Raises ModelError as `wrap` would.
    """
    found = linears(shape)
    find_layers(shape.layers, layers)
    saved = list(modules_to_save)
    find_modules(modules(parts(shape)), list(found), saved)
    names = choose(list(found), target_modules)
    ends = tuple(f".{name}" for name in names)
    return {
        path: linear
        for path, linear in found.items()
        if not any(re.match(rf"(^|.*\.){name}($|\..*)", path) for name in saved)
        and (path in names or (path.endswith(ends) and _in_layers(shape, path, layers)))
    }


def copies(shape: ModelShape, modules_to_save: Iterable[str] = ()) -> dict[str, Part]:
    """What trains as a whole copy: the modules named, and the head of a classifier.

    peft 0.21 looks at how a module's name ends, not where a part of it begins: `norm` is `input_layernorm` too.
    """
    names = (*modules_to_save, *(HEADS if shape.head.name in HEADS else ()))
    return {
        path: part for path, part in parts(shape).items() if any(module.endswith(names) for module in modules([path]))
    }


def modules(paths: Iterable[str]) -> list[str]:
    """The modules of these names and all that they are in, once each."""
    found: dict[str, None] = {}
    for path in paths:
        names = path.split(".")
        found |= dict.fromkeys(".".join(names[: end + 1]) for end in range(len(names)))
    return list(found)


def value_at(path: str, patterns: Mapping[str, int], default: int) -> int:
    """What the first pattern that fits the end of a layer's name gives, as peft's `get_pattern_key` finds it."""
    return next((value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", path)), default)


def layer_of(shape: ModelShape, path: str) -> int:
    """The decoder layer of a module; 0 for what comes before them, their number for what comes after."""
    if path.startswith(f"{shape.layer_path}."):
        return int(path.removeprefix(f"{shape.layer_path}.").partition(".")[0])
    after = [shape.head.name, *(norm.name for norm in shape.last_norms)]
    return shape.layers if path in after else 0


def trained(
    shape: ModelShape,
    counts: Mapping[str, int],
    *,
    widths: Mapping[str, int] | None = None,
    modules_to_save: Iterable[str] = (),
    shared: int = 0,
    frozen: int = 0,
    saved: int = 0,
    saved_fp32: int = 0,
) -> Adapter:
    """What trains when modules get `counts` new parameters each, `shared` ones go with all of them, and copies train.

    `widths` are the widths of the paths beside linear layers, by full name; where layers differ, the widest counts.
    `saved` and `saved_fp32` are what a token keeps in all layers together.
    """
    whole = copies(shape, modules_to_save)
    inner: dict[str, int] = {}
    for path, width in (widths or {}).items():
        name = path.removeprefix(f"{shape.layer_path}.").partition(".")[2]
        if path.startswith(f"{shape.layer_path}."):
            inner[name] = max(width, inner.get(name, 0))
    lowest = min((layer_of(shape, path) for path in (*counts, *whole)), default=0)
    return Adapter(
        parameters=sum(counts.values()) + shared + sum(part.parameters for part in whole.values()),
        frozen=frozen,
        low_rank=tuple(inner.items()),
        saved=saved / max(1, shape.layers - lowest),
        saved_fp32=saved_fp32 / max(1, shape.layers - lowest),
        lowest_layer=lowest,
    )


def _in_layers(shape: ModelShape, path: str, layers: Sequence[int] | None) -> bool:
    """Whether a module is in one of these layers; what is in none is left out as soon as there is a choice."""
    if not layers:
        return True
    return path.startswith(f"{shape.layer_path}.") and layer_of(shape, path) in layers
