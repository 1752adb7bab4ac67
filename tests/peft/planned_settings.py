"""Settings that change how many parameters a method trains on a tiny Llama, beside its defaults."""

from typing import Any

_SOME: dict[str, Any] = {"target_modules": ["q_proj", "mlp.up_proj"]}
_LAST: dict[str, Any] = {"layers": [1]}
_SAVED: dict[str, Any] = {"modules_to_save": ["norm"]}
"""peft 0.21 takes it for the norms in the layers too."""

SETTINGS: dict[str, list[dict[str, Any]]] = {
    "lora": [
        {"type": "lora", "rank": 3, "rank_pattern": {"(up|down)_proj": 5, "1.mlp.down_proj": 7}, **_LAST},
        {"type": "lora", "target_modules": ["model.layers.0.self_attn.v_proj", "o_proj"], **_LAST},
        {"type": "lora", "modules_to_save": ["embed_tokens", "lm_head"]},
        {"type": "lora", "modules_to_save": ["mlp"], "dora": True},
        {"type": "lora", **_SAVED},
    ],
    "adamss": [{"type": "adamss"}, {"type": "adamss", "r": 7, "num_subspaces": 3, **_SOME}],
    "adapter": [{"type": "adapter", "compacter": True, "style": "pfeiffer", "size": 7 * 4, "phm_rank": 3}],
    "boft": [
        {"type": "boft", "boft_block_size": 8, **_SOME, **_SAVED},
        {"type": "boft", "boft_block_size": 0, "boft_block_num": 2, **_LAST},
    ],
    "beft": [{"type": "beft", **_SOME, **_SAVED}],
    "c3a": [{"type": "c3a", "block_size": 16, "block_size_pattern": {"q_proj": 8}, **_LAST, **_SAVED}],
    "deft": [{"type": "deft", "r": 20, **_LAST, **_SAVED}, {"type": "deft", "para": True, **_SOME}],
    "delora": [{"type": "delora", "r": 3, "rank_pattern": {"v_proj": 5}, **_LAST, **_SAVED}],
    "fourierft": [{"type": "fourierft", "n_frequency": 50, "n_frequency_pattern": {"v_proj": 20}, **_LAST, **_SAVED}],
    "frod": [{"type": "frod", "sparse_rate": 0.2, **_LAST, **_SAVED}, {"type": "frod", "sparse_rate": 0.0, **_SOME}],
    "glora": [
        {"type": "glora", "config_A_B": "vector", **_SOME, **_SAVED},
        {"type": "glora", "config_A_B": "constant", "config_C": "none", "config_D_E": "none"},
    ],
    "gralora": [{"type": "gralora", "r": 8, "hybrid_r": 3, "gralora_k": 4, **_LAST, **_SAVED}],
    "hira": [{"type": "hira", "r": 3, **_LAST, **_SAVED}],
    "hra": [{"type": "hra", "r": 6, "apply_GS": True, **_LAST, **_SAVED}],
    "lily": [
        {"type": "lily", "r": 4, "stride_A": 2, "num_B": 3, **_SOME, **_SAVED},
        {"type": "lily", "r": 4, "stride_A": 2, **_LAST},
    ],
    "ln_tuning": [{"type": "ln_tuning", "modules_to_save": ["lm_head"]}],
    "loha": [{"type": "loha", "r": 3, "rank_pattern": {"v_proj": 5}, **_LAST, **_SAVED}],
    "lokr": [
        {"type": "lokr", "r": 1, "rank_pattern": {"v_proj": 2}, **_LAST, **_SAVED},
        {"type": "lokr", "r": 1, "decompose_both": True, **_SOME},
        {"type": "lokr", "decompose_factor": 2},
        {"type": "lokr", "decompose_factor": 3, "r": 2},
        {"type": "lokr", "decompose_factor": 16},
    ],
    "miss": [
        {"type": "miss", "r": 8, "init_weights": "bat", **_LAST, **_SAVED},
        {"type": "miss", "r": 8, "init_weights": "mini", "mini_r": 4, **_SOME},
    ],
    "oft": [
        {"type": "oft", "oft_block_size": 8, "block_share": True, **_LAST, **_SAVED},
        {"type": "oft", "oft_block_size": 0, "r": 4, **_SOME},
        {"type": "oft", "oft_block_size": 0, "r": 12},
    ],
    "osf": [
        {"type": "osf", "effective_rank": 5, **_SOME, **_SAVED},
        {"type": "osf", "effective_rank": 0.3, "rank_pattern": {"v_proj": 0.6, "mlp.up_proj": 3.0}},
    ],
    "peanut": [{"type": "peanut", "r": 3, "depth": 2, **_LAST, **_SAVED}],
    "psoft": [
        {"type": "psoft", "r": 6, "psoft_orth": False, "psoft_mag_a": False, **_LAST, **_SAVED},
        {"type": "psoft", "r": 6, "psoft_mag_b": False, **_SOME},
    ],
    "pvera": [{"type": "pvera", "r": 6, **_LAST, **_SAVED}],
    "randlora": [
        {"type": "randlora", "r": 5, **_LAST, **_SAVED},
        {"type": "randlora", "r": 8, "sparse": True, **_SOME},
    ],
    "road": [
        {"type": "road", "group_size": 8, "variant": "road_2", **_SOME, **_SAVED},
        {"type": "road", "group_size": 8, "variant": "road_4"},
    ],
    "shadow": [
        {"type": "shadow", "r": 3, "update_hidden_size": 5, "shadow_num_hidden_layers": 2},
        {"type": "shadow", "share_embeddings": False},
        {"type": "shadow", **_LAST},
        {"type": "shadow", "shadow_hidden_size": 16, "shadow_num_attention_heads": 2, "shadow_intermediate_size": 24},
    ],
    "shira": [{"type": "shira", "r": 3, **_SOME, **_SAVED}],
    "supertuning": [
        {"type": "supertuning", "sparsity": 0.77, **_SOME, **_SAVED},
        {"type": "supertuning", "sparsity": 0.9, "r": 3, "lora_alpha": 3.0},
    ],
    "tinylora": [
        {"type": "tinylora", "u": 5, "weight_tying": 0.3, **_SAVED},
        {"type": "tinylora", "u": 5, "weight_tying": 0.8, **_SOME},
        {"type": "tinylora", "weight_tying": 1.0, **_LAST},
    ],
    "unilora": [{"type": "unilora", "theta_d_length": 99, **_LAST, **_SAVED}],
    "vblora": [{"type": "vblora", "r": 3, "vector_length": 8, "num_vectors": 20, **_LAST, **_SAVED}],
    "vera": [{"type": "vera", "r": 5, **_LAST, **_SAVED}],
    "waveft": [
        {"type": "waveft", "n_frequency": 50, "n_frequency_pattern": {"v_proj": 20}, **_LAST, **_SAVED},
        {"type": "waveft", "n_frequency": 50, "proportional_parameters": True, **_LAST},
    ],
    "adaption_prompt": [{"type": "adaption_prompt", "adapter_len": 3, "adapter_layers": 1}],
    "cartridge": [{"type": "cartridge", "num_virtual_tokens": 5, "num_frozen_tokens": 0}],
}
"""By `type`."""

BOUNDS: dict[str, dict[str, Any]] = {
    "lora, eva": {"type": "lora", "init": "eva", "rank": 4},
    "adamss": {"type": "adamss", "r": 40, "subspace_rank": 3},
}
"""Where the number depends on rows or weights, so only a bound can be said."""
