"""Several LoRA adapters of one base become one, without the base and without a full update in memory."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from ftune.core.errors import ModelError
from ftune.core.paths import shown
from ftune.merge.engines.joined_sources import PREFIX, Factors, LoraAdapter, read_adapter


def join_adapters(folders: Sequence[Path], weights: Sequence[float], target: Path, rank: int | None) -> None:
    """Write the adapter whose update is sum_i w_i s_i B_i A_i into the existing, empty folder `target`.

    `rank` None keeps the sum exact, with as many ranks as the sources have together in a layer; a number cuts each
    layer's sum down to the nearest update of at most that rank. The result has alpha = rank, so that it scales by 1.
    Raises ModelError for sources whose sum is no LoRA adapter, and for sources of different bases.
    """
    adapters = [read_adapter(folder) for folder in folders]
    base = {key: _agreed(adapters, key) for key in ("base_model_name_or_path", "revision")}
    layers: dict[str, Factors] = {}
    for name in sorted({name for adapter in adapters for name in adapter.layers}):
        exact = _sum_of_layer(adapters, weights, name)
        layers[name] = exact if rank is None else truncated_product(exact, rank)
    tensors = _factors(adapters, layers) | _embeddings(adapters, layers)
    _config(adapters, {name: len(factors.a) for name, factors in layers.items()}, base).save_pretrained(str(target))
    save_file(tensors, target / "adapter_model.safetensors", metadata={"format": "pt"})


def _sum_of_layer(adapters: Sequence[LoraAdapter], weights: Sequence[float], name: str) -> Factors:
    """The weighted sum of what the adapters that have this layer do to it: [B_1, B_2, ...] [A_1; A_2; ...]."""
    parts = [(one, weight) for one, weight in zip(adapters, weights, strict=True) if name in one.layers]
    first = parts[0][0]
    for adapter, _ in parts[1:]:
        if adapter.layers[name].shape != first.layers[name].shape:
            raise ModelError(
                f"{shown(adapter.folder)}: its update of '{name}' has the shape {adapter.layers[name].shape}, and that "
                f"of {shown(first.folder)} has {first.layers[name].shape}; only adapters of one base can be added"
            )
    factors = [adapter.layers[name].scaled(weight) for adapter, weight in parts]
    return Factors(torch.cat([factor.a for factor in factors]), torch.cat([factor.b for factor in factors], dim=1))


def truncated_product(factors: Factors, rank: int) -> Factors:
    """The nearest product to B A of at most `rank` (Eckart and Young, 1936), its singular values shared evenly.

    With B = Q_b R_b and A^T = Q_a R_a, the singular values of B A are those of the small R_b R_a^T.
    """
    left, left_core = torch.linalg.qr(factors.b.double())
    right, right_core = torch.linalg.qr(factors.a.double().T)
    u, values, v = torch.linalg.svd(left_core @ right_core.T, full_matrices=False)
    roots = values[:rank].sqrt()
    b, a = (left @ u[:, : len(roots)]) * roots, (v[: len(roots)] * roots[:, None]) @ right.T
    return Factors(a.float(), b.float())


def _agreed(adapters: Sequence[LoraAdapter], key: str) -> str | None:
    """What the adapters say about their base, if they say anything."""
    said = [(adapter.folder, getattr(adapter.config, key)) for adapter in adapters if getattr(adapter.config, key)]
    for folder, value in said[1:]:
        if value != said[0][1]:
            raise ModelError(
                f"{shown(folder)}: its base ('{key}') is '{value}', and that of {shown(said[0][0])} is '{said[0][1]}'; "
                "only adapters of one base can be added; if both names mean the same model, write the same into both"
            )
    return said[0][1] if said else None


def _factors(adapters: Sequence[LoraAdapter], layers: dict[str, Factors]) -> dict[str, Tensor]:
    """The factors by the names that peft gives them."""
    tensors: dict[str, Tensor] = {}
    for name, factors in layers.items():
        embedding = any(name in adapter.embeddings for adapter in adapters)
        for letter, factor in (("A", factors.a), ("B", factors.b)):
            end = f"lora_embedding_{letter}" if embedding else f"lora_{letter}.weight"
            tensors[f"{PREFIX}{name}.{end}"] = factor.contiguous()
    return tensors


def _embeddings(adapters: Sequence[LoraAdapter], layers: dict[str, Factors]) -> dict[str, Tensor]:
    """The base's embeddings, which peft writes beside an adapter of theirs or after a change of the vocabulary."""
    kept: dict[str, Tensor] = {}
    for adapter in adapters:
        for name, tensor in adapter.base_tensors.items():
            if not torch.equal(kept.setdefault(name, tensor).float(), tensor.float()):
                raise ModelError(
                    f"{shown(adapter.folder)}: its copy of the base's '{name}' differs from another source's; only "
                    "adapters of one base, with one vocabulary, can be added"
                )
    return {f"{PREFIX}{name}{'.base_layer' if name in layers else ''}.weight": kept[name] for name in kept}


def _config(adapters: Sequence[LoraAdapter], ranks: dict[str, int], base: dict[str, str | None]) -> Any:
    """A plain LoRA with alpha = rank; layers are named in full, as the sources' ways to choose them may differ."""
    from peft import LoraConfig

    rank = max(ranks.values())
    others = {f"^{name}": other for name, other in ranks.items() if other != rank}  # else a longer name could end so
    return LoraConfig(
        r=rank,
        lora_alpha=rank,
        rank_pattern=others,
        alpha_pattern=dict(others),
        target_modules=sorted(ranks),
        fan_in_fan_out=any(adapter.config.fan_in_fan_out for adapter in adapters),
        task_type=next((adapter.config.task_type for adapter in adapters if adapter.config.task_type), None),
        inference_mode=True,
        **base,
    )
