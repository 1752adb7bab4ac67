"""What peft's own methods need on a tiny model (2 layers, hidden 32, 4 heads, of key and value width 16)."""

from importlib.util import find_spec

from ftune.peft.library_facts import PACKAGES

REQUIRED: dict[str, dict[str, object]] = {
    "adaption_prompt": {"adapter_len": 4, "adapter_layers": 2},
    "c3a": {"block_size": 16},
    "cartridge": {"num_virtual_tokens": 4},
    "fourierft": {"n_frequency": 100},
    "gralora": {"r": 8},
    "miss": {"r": 8},
    "oft": {"oft_block_size": 8},
    "psoft": {"r": 8},
    "road": {"group_size": 16},
    "shira": {"r": 4},
    "supertuning": {"sparsity": 0.9},
    "trainable_tokens": {"token_indices": [5, 9, 13, 21, 34, 55, 89, 144]},
    "vblora": {"vector_length": 16},
    "waveft": {"n_frequency": 100},
}

LEARNING_RATES: dict[str, float] = {"unilora": 0.1}

MISSING = {name for name, (module, _) in PACKAGES.items() if find_spec(module) is None} | {"trainable_tokens"}
"""Methods that cannot run here: their package is not installed, or the tiny model's head shares the embeddings."""
