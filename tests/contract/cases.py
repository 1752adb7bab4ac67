"""The settings that the PEFT contract runs on: every method with its defaults, and settings that make a difference."""

from functools import cache
from typing import Any

from ftune.core.variants import variants_of
from ftune.peft.base import FEATURES, PeftMethod
from tests.contract import library_cases
from tests.contract.adapters_to_fuse import adapters_to_fuse

REQUIRED: dict[str, dict[str, object]] = {
    "bitfit": {"add": True},
    **library_cases.REQUIRED,
    "adapter_fusion": {"adapters": adapters_to_fuse()},
}
"""What a tiny model (2 layers, hidden 32, 4 heads) needs beside, or instead of, a method's defaults, by its `type`."""

VARIATIONS: dict[str, dict[str, object]] = {
    "freeze, patterns": {"type": "freeze", "patterns": ["*.0.*"], "embeddings": True},
    "lora, rslora": {"type": "lora", "rslora": True},
    "lora, dora": {"type": "lora", "dora": True},
    "lora, pissa": {"type": "lora", "init": "pissa", "rank": 4},
    "lora, olora": {
        "type": "lora",
        "init": "olora",
        "rank": 4,
        "alpha": 4.0,
        "rslora": True,
        "rank_pattern": {"(up_proj|wi)": 6},
    },
    "lora, orthogonal": {"type": "lora", "init": "orthogonal"},
    "lora, eva": {"type": "lora", "init": "eva", "rank": 4},
    "lora, loftq": {"type": "lora", "init": "loftq", "rank": 4},
    "lora, embeddings": {"type": "lora", "modules_to_save": ["embed_tokens"]},
    "prefix, no MLP": {"type": "prefix", "reparameterisation": False},
    "prompt, random": {"type": "prompt", "init": "random"},
    "p_tuning, mlp": {"type": "p_tuning", "encoder": "mlp"},
    "adapter, pfeiffer": {"type": "adapter", "style": "pfeiffer"},
    "adapter, parallel": {"type": "adapter", "style": "parallel"},
    "adapter, compacter": {"type": "adapter", "compacter": True},
}
"""Further settings by a name of their own."""

LEARNING_RATES: dict[str, float] = {
    "freeze": 0.01,
    "freeze, patterns": 0.01,
    **library_cases.LEARNING_RATES,
    "ia3": 0.3,
    "lora, olora": 0.01,
}
"""Where 0.03 does not suit, by the name of the case."""

OTHER: dict[str, dict[str, dict[str, object]]] = {
    "bitfit": {
        "add": {"add": False},
        "target_modules": {"target_modules": ["q_proj"]},
    },
    "freeze": {
        "last_layers": {"last_layers": 1},
        "layers": {"layers": [0]},
        "patterns": {"patterns": ["*norm*"]},
        "embeddings": {"embeddings": True},
        "head": {"head": True},
    },
    "adalora": {
        "rank": {"rank": 2},
        "initial_rank": {"initial_rank": 10},
        "alpha": {"alpha": 5.0},
        "dropout": {"dropout": 0.5},
        "target_modules": {"target_modules": ["q_proj"]},
        "layers": {"layers": [1]},
        "warmup": {"warmup": 0.5, "every": 1},
        "final": {"final": 0.8, "every": 1},
        "every": {"every": 2},
        "importance_decay": {"importance_decay": 0.1, "every": 1},
        "uncertainty_decay": {"uncertainty_decay": 0.1, "every": 1},
        "orthogonality": {"orthogonality": 5.0},
    },
    "ia3": {
        "target_modules": {"target_modules": ["k_proj"]},
        "feedforward_modules": {"feedforward_modules": ["up_proj"]},
    },
    "adapter_fusion": {"adapters": {"adapters": adapters_to_fuse()[:1] * 2}},
    "adapter": {
        "style": {"style": "parallel"},
        "reduction_factor": {"reduction_factor": 4.0},
        "size": {"size": 3},
        "activation": {"activation": "tanh"},
        "dropout": {"dropout": 0.5},
        "scale": {"scale": 2.0},
        "drop_layers": {"drop_layers": 1},
        "compacter": {"compacter": True},
        "phm_dimension": {"compacter": True, "phm_dimension": 2},
        "phm_rank": {"compacter": True, "phm_rank": 2},
        "attention_modules": {"attention_modules": ["self_attn.o_proj"]},
        "feed_forward_modules": {"feed_forward_modules": ["mlp.down_proj"]},
    },
    "full": {},
    "lora": {
        "rank": {"rank": 2},
        "alpha": {"alpha": 5.0},
        "dropout": {"dropout": 0.5},
        "target_modules": {"target_modules": ["q_proj"]},
        "layers": {"layers": [1]},
        "rslora": {"rslora": True},
        "dora": {"dora": True},
        "rank_pattern": {"rank_pattern": {"down_proj": 2}},
        "modules_to_save": {"modules_to_save": ["embed_tokens"]},
        "init": {"init": "gaussian"},
        "loraplus_ratio": {"loraplus_ratio": 16.0},
    },
    "p_tuning": {
        "virtual_tokens": {"virtual_tokens": 3},
        "encoder": {"encoder": "mlp"},
        "hidden_size": {"hidden_size": 16},
        "layers": {"layers": 3},
        "dropout": {"dropout": 0.5},
    },
    "p_tuning_v2": {
        "virtual_tokens": {"virtual_tokens": 3},
    },
    "prefix": {
        "virtual_tokens": {"virtual_tokens": 3},
        "reparameterisation": {"reparameterisation": False},
        "hidden_size": {"hidden_size": 16},
    },
    "prompt": {
        "virtual_tokens": {"virtual_tokens": 3},
        "init": {"init": "random"},
        "text": {"init": "text", "text": "the cat sat on a mat"},
    },
}
"""By `type` and key: fields (the key and what it needs beside it) that make another model than the defaults do."""


@cache
def cases() -> dict[str, dict[str, object]]:
    """The `peft` section of each case by its name."""
    plain = {
        name: {"type": name, **REQUIRED.get(name, {})}
        for name, cls in variants_of(PeftMethod).items()
        if cls.model_construct(type=name).limits().keys() != FEATURES.keys()  # else refused as such
        and name not in library_cases.MISSING
    }
    return plain | VARIATIONS


def method(case: str) -> PeftMethod:
    """The method of a case, checked as a recipe's section is."""
    settings: dict[str, Any] = cases()[case]
    return variants_of(PeftMethod)[settings["type"]].model_validate(settings)


def learning_rate(case: str) -> float:
    """The learning rate with which a case learns one row in 60 steps."""
    return LEARNING_RATES.get(case, 0.03)
