"""What peft's own methods need on a tiny model (2 layers, hidden 32, 4 heads, of key and value width 16)."""

import os
import tempfile
from pathlib import Path

EXPERTS = Path(tempfile.gettempdir()) / f"ftune-experts-{os.getpid()}"
"""Two LoRA adapters of the tiny model, made by a fixture, for methods that start from some."""

REQUIRED: dict[str, dict[str, object]] = {
    "adaption_prompt": {"adapter_len": 4, "adapter_layers": 2},
    "c3a": {"block_size": 16},
    "cartridge": {"num_virtual_tokens": 4},
    "cpt": {"cpt_token_ids": [7, 11, 15]},
    "fourierft": {"n_frequency": 100},
    "gralora": {"r": 8},
    "miss": {"r": 8},
    "oft": {"oft_block_size": 8},
    "psoft": {"r": 8},
    "road": {"group_size": 16},
    "supertuning": {"sparsity": 0.9},
    "trainable_tokens": {"token_indices": [5, 9, 13, 21, 34, 55, 89, 144]},
    "vblora": {"vector_length": 16},
    "waveft": {"n_frequency": 100},
    "xlora": {"adapters": {"one": str(EXPERTS / "one"), "two": str(EXPERTS / "two")}},
}

LEARNING_RATES: dict[str, float] = {}
