"""Initialisations of LoRA that look at the base model's weights or at rows."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftune.core.errors import ModelError

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import Tensor

EVA_BATCH = 4
"""Rows that EVA looks at together, at least; it stops when the components no longer turn."""


def init_eva(model: "PeftModel", rows: Sequence[Sequence[int]]) -> None:
    """A from the principal components of each layer's inputs over `rows`, ranks by explained variance, B zero.

    Raises ModelError when there are too few tokens for the rank.
    """
    import torch
    from peft import initialize_lora_eva_weights

    chosen = [list(row) for row in rows]
    config = model.peft_config["default"]
    batches = []
    for batch in _batches(chosen, math.ceil(config.eva_config.rho * config.r)):
        width = max(map(len, batch))
        mask = [[1] * len(row) + [0] * (width - len(row)) for row in batch]
        ids = [row + [0] * (width - len(row)) for row in batch]
        batches.append(
            {
                "input_ids": torch.tensor(ids, device=model.device),
                "attention_mask": torch.tensor(mask, device=model.device),
            }
        )
    try:
        initialize_lora_eva_weights(model, batches, show_progress_bar=False)
    except (ValueError, IndexError) as error:  # the latter from layers whose inputs are not (rows, tokens, width)
        raise ModelError(
            f"peft.init: 'eva' cannot be computed on this model from {len(chosen)} rows ({error}); use another init"
        ) from error


def _batches(rows: list[list[int]], tokens: int) -> list[list[list[int]]]:
    """`rows` in batches that have `tokens` tokens each; peft 0.21 waits forever for one where all have fewer.

    Raises ModelError when all rows together have fewer.
    """
    batches: list[list[list[int]]] = [[]]
    for row in rows:
        if len(batches[-1]) >= EVA_BATCH and sum(map(len, batches[-1])) >= tokens:
            batches.append([])
        batches[-1].append(row)
    found = sum(map(len, rows))
    if found < tokens:
        raise ModelError(
            f"peft.init: 'eva' needs {tokens} tokens for this rank, and its {len(rows)} rows have {found}; "
            "lower 'peft.rank', or use another init"
        )
    if len(batches) > 1 and sum(map(len, batches[-1])) < tokens:
        batches[-2:] = [batches[-2] + batches[-1]]
    return batches


def init_loftq(model: "PeftModel", located: str) -> None:
    """A and B as the best low-rank approximation of what NF4 lost: W - Q(W) (algorithm 1 with one step).

    `located` is where the unquantised weights are read from. Raises ModelError when they are not there.
    """
    import torch
    from bitsandbytes.functional import dequantize_4bit
    from peft.tuners.lora import Linear4bit

    weights = _Weights(located)
    for name, module in model.get_base_model().named_modules():
        if not isinstance(module, Linear4bit):
            continue
        quantised = module.get_base_layer().weight
        exact = weights.read(f"{name}.weight").to(quantised.device, torch.float32)
        lost = exact - dequantize_4bit(quantised.data, quantised.quant_state).float()
        left, values, right = torch.linalg.svd(lost, full_matrices=False)
        rank = module.r["default"]
        roots = (values[:rank] / module.scaling["default"]).sqrt()
        module.lora_A["default"].weight.data = roots[:, None] * right[:rank]
        module.lora_B["default"].weight.data = left[:, :rank] * roots


class _Weights:
    """The tensors of a model's safetensors files, read one by one."""

    def __init__(self, located: str) -> None:
        import json

        from transformers.utils import cached_file

        index = cached_file(located, "model.safetensors.index.json", _raise_exceptions_for_missing_entries=False)
        single = cached_file(located, "model.safetensors", _raise_exceptions_for_missing_entries=False)
        self.located, self.single, self.shards = located, single, {}
        if single is None and index is not None:
            entries = json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"]
            self.shards = {name: str(Path(index).parent / file) for name, file in entries.items()}

    def read(self, name: str) -> "Tensor":
        from safetensors import safe_open

        file = self.single or self.shards.get(name)
        if file is not None:
            with safe_open(file, framework="pt") as opened:
                if name in opened.keys():  # noqa: SIM118 - not a mapping
                    tensor: Tensor = opened.get_tensor(name)
                    return tensor
        raise ModelError(f"peft.init: 'loftq' finds no tensor '{name}' in the weights of {self.located}")


def remember_start(model: "PeftModel") -> None:
    """Keep A and B as they are now: an initialisation took their product out of the base weights.

    Raises ModelError when a layer is narrower than its rank: peft 0.21 then makes A and B that it cannot load.
    """
    from peft import get_peft_model_state_dict
    from peft.tuners.lora import LoraLayer

    for name, module in model.get_base_model().named_modules():
        if isinstance(module, LoraLayer) and (found := len(module.lora_A["default"].weight)) < module.r["default"]:
            raise ModelError(
                f"peft.rank: {module.r['default']} is more than the {found} principal components of '{name}'; "
                "lower it, or use 'init: default'"
            )
    state = get_peft_model_state_dict(model)
    model.lora_start = {name: value.detach().cpu().clone() for name, value in state.items() if ".lora_" in name}


def export_update(model: Any, folder: Path) -> None:
    """Rewrite the adapter saved in `folder` as the update of the untouched base.

    W + s (B A - B0 A0) = W + s [B, -B0] [A; A0]: a LoRA of twice the rank with the same scale s = alpha / rank, or
    alpha / sqrt(rank) with rsLoRA (appendix of PiSSA, arXiv:2404.02948).
    """
    import torch
    from safetensors.torch import load_file, save_file

    path = folder / "adapter_model.safetensors"
    saved = load_file(path)
    for name, start in model.lora_start.items():
        if ".lora_A." in name:
            saved[name] = torch.cat([saved[name], start.to(saved[name])], dim=0)
        elif ".lora_B." in name:
            saved[name] = torch.cat([saved[name], -start.to(saved[name])], dim=1)
    save_file(saved, path, metadata={"format": "pt"})
    config = model.peft_config["default"]
    growth = math.sqrt(2) if config.use_rslora else 2.0
    changes = {
        "r": 2 * config.r,
        "lora_alpha": growth * config.lora_alpha,
        "rank_pattern": {name: 2 * rank for name, rank in config.rank_pattern.items()},
        "init_lora_weights": True,
    }
    written = type(config).from_pretrained(str(folder))
    for name, value in changes.items():
        setattr(written, name, value)
    written.save_pretrained(str(folder))
