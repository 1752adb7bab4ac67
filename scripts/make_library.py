"""Write the table of peft's own methods from the installed peft: `python scripts/make_library.py`.

The table is `ftune/peft/library.json`: by `type` the config class and its keys, each with what it takes, its default
and its help. Reading it is a thousand times faster than importing peft.
"""

import dataclasses
import enum
import json
import sys
import types
import typing
from importlib.metadata import version
from pathlib import Path

from ftune.peft.library_facts import REFUSED

TABLE = Path(__file__).parents[1] / "ftune" / "peft" / "library.json"

OWN_FILES = {"lora", "adalora", "prefix_tuning", "prompt_tuning", "p_tuning", "ia3"}
"""Methods of peft that have a file of their own under `ftune/peft`."""

LEFT_OUT = {
    # what the model, the task or the run says already
    *("auto_mapping", "peft_version", "peft_type", "task_type", "inference_mode", "base_model_name_or_path"),
    *("revision", "token_dim", "num_transformer_submodules", "num_attention_heads", "num_layers"),
    *("tokenizer_name_or_path", "tokenizer_kwargs", "fan_in_fan_out", "layers_pattern"),
    # does nothing for a language model, or has one value only
    *("use_effective_conv2d", "target_svd_config", "poly_type", "mask_type", "progressbar"),
    # peft 0.21 looks it up and then makes each layer with `r`
    "hira.rank_pattern",
    # another key or method is there for it: target_modules, bitfit
    *("exclude_modules", "bias"),
    # a base that is not frozen where it should be, or a checkpoint that cannot be resumed from
    *("runtime_offload_base_weight", "save_only_topk_weights"),
    # needs another model, is there for tests, is computed past by TRL
    *("shadow.shadow_model", "osf.init_weights", "shadow.auxiliary_loss_weight"),
    # wants a call at every step and leaves frozen what it masks; adalora shares a budget out among layers
    *("use_asa", "asa_target_subspaces", "init_warmup", "final_warmup", "mask_interval", "asa_importance_beta"),
    *("asa_uncertainty_beta", "asa_schedule_exponent"),
}
"""Fields of the config classes, or of one method's, that are no keys."""

NOT_LINEAR = {"ln_tuning", "shadow", "trainable_tokens", "adaption_prompt"}
"""Methods that are not put on linear layers, so that `target_modules` says nothing."""

REQUIRED = {
    "adaption_prompt": {"adapter_len", "adapter_layers"},
    "cartridge": {"num_virtual_tokens"},
    "trainable_tokens": {"token_indices"},
}
"""Keys without a default that means anything."""

CHOICES: dict[str, list[str | bool | None]] = {
    "adamss.init_weights": ["orthogonal", None],
    "c3a.init_weights": [True, "gaussian", "kaiming_uniform", "xavier_uniform"],
    "hira.init_weights": [True, "gaussian"],
    "lokr.init_weights": [True, "lycoris"],
    "miss.init_weights": [True, "bat", "mini"],
    "road.variant": ["road_1", "road_2", "road_4"],
    "tinylora.init_weights": [True, "uniform"],
}
"""What is allowed where the annotation says less, or allows weights for tests only."""

OWN_TYPES = {"osf.rank_pattern": "dict[str, float]"}
"""What a key takes where its annotation says too little, or where peft ignores a part of it."""

OWN_HELP = {
    "target_modules": "Names of the linear layers to adapt; `auto` takes all of them but the output head.",
    "layers": "Indexes of the decoder layers to adapt, from 0; all by default.",
    "modules_to_save": "Names of further modules that train as a whole and are saved with the adapter.",
}
"""Help where peft has none, or where a key means the same with every method."""


def members(annotation: object) -> list[object]:
    """The members of a union, or the annotation itself."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return [found for member in typing.get_args(annotation) for found in members(member)]
    return [annotation]


def takes(place: str, annotation: object, default: object) -> list[object]:
    """What a key takes: names of types, and `{"choices": [...]}`; `null` only where that is the default."""
    if place in CHOICES:
        return [{"choices": CHOICES[place]}]
    if place in OWN_TYPES:
        return [OWN_TYPES[place], *(["null"] if default is None else [])]
    found: list[object] = []
    for member in members(annotation):
        if typing.get_origin(member) is typing.Literal:
            found.append({"choices": list(typing.get_args(member))})
        elif place.endswith("_pattern") and member is not type(None):
            found.append("dict[str, int]")
        elif isinstance(member, type) and not typing.get_args(member):
            found.append(member.__name__)
        else:
            found.append(str(member))
    return [kind for kind in found if kind != "NoneType"] + (["null"] if default is None else [])


def bounds(field: str, kinds: list[object], default: object) -> dict[str, float]:
    """The least and the greatest number: counts are 1 or more unless the default is less; dropouts are below 1."""
    if "bool" in kinds:
        return {}
    if "dropout" in field:
        return {"ge": 0, "lt": 1}
    if "int" not in kinds or "float" in kinds:
        return {}
    least = 0 if "seed" in field or "frozen" in field or field in ("oft_block_size", "boft_block_size") else 1
    return {"ge": min(least, default) if isinstance(default, int) else least}


def key(name: str, field: "dataclasses.Field[typing.Any]", annotation: object) -> dict[str, object]:
    """One key of the table."""
    required = field.name in REQUIRED.get(name, set())
    default = field.default if field.default is not dataclasses.MISSING else None
    if field.default_factory is not dataclasses.MISSING:
        default = field.default_factory()
    default = str(default.value) if isinstance(default, enum.Enum) else default
    kinds = takes(f"{name}.{field.name}", annotation, ... if required else default)
    help_text = OWN_HELP.get(field.name) or " ".join("".join(field.metadata.get("help") or "").split())
    made: dict[str, object] = {"takes": kinds, "help": help_text}
    if not required:
        made["default"] = default
    if found := bounds(field.name, kinds, default):
        made["bounds"] = found
    return made


def keys(name: str, config: type) -> dict[str, dict[str, object]]:
    """The keys of a method in the order of its config class."""
    annotations = typing.get_type_hints(config)
    made: dict[str, dict[str, object]] = {}
    for field in dataclasses.fields(config):
        annotation = annotations[field.name]
        if field.name == "target_modules":
            if name not in NOT_LINEAR:
                made[field.name] = {"takes": ["targets"], "default": "auto", "help": OWN_HELP[field.name]}
        elif field.name == "layers_to_transform":
            made["layers"] = {"takes": ["layers", "null"], "default": None, "help": OWN_HELP["layers"]}
        elif field.name == "modules_to_save":
            made[field.name] = {"takes": ["list[str]", "null"], "default": None, "help": OWN_HELP[field.name]}
        elif field.name == "init_weights" and annotation is bool and field.default is True:
            continue  # the other value is there for peft's own tests
        elif not {field.name, f"{name}.{field.name}"} & LEFT_OUT:
            made[field.name] = key(name, field, annotation)
    return made


def is_ours(config: type) -> bool:
    """Whether a method that peft knows is one that ftune registered."""
    return config.__module__.startswith("ftune.")


def table() -> dict[str, object]:
    """The whole table."""
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    known = [(kind, config) for kind, config in PEFT_TYPE_TO_CONFIG_MAPPING.items() if not is_ours(config)]
    methods = {str(kind.value).lower(): config for kind, config in known}
    made = {
        name: {"config": config.__name__, "keys": keys(name, config)}
        for name, config in sorted(methods.items())
        if name not in OWN_FILES | REFUSED.keys()
    }
    return {"peft": version("peft"), "types": made}


def written() -> str:
    """The table as it is in its file."""
    return json.dumps(table(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    TABLE.write_text(written(), encoding="utf-8")
    sys.stderr.write(f"{TABLE.name} is current\n")
