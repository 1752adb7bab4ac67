"""What a model offers to methods: its task, its linear layers, its decoder layers."""

import re
from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from ftune.core.errors import ModelError
from ftune.core.suggest import did_you_mean

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

HEADS = ("score", "classifier", "classification_head")
"""Names of the heads of sequence classification models, which train whatever the method."""


def in_head(path: str) -> bool:
    """Whether a module lies in such a head, or in what goes before it (`pre_classifier` of DistilBERT)."""
    return path.partition(".")[0].endswith(HEADS)


Targets = Literal["auto"] | Annotated[list[str], Field(min_length=1)]
"""What `target_modules` takes."""


def task_type(model: "PreTrainedModel") -> str:
    """The name that peft has for what the model is for: CAUSAL_LM, SEQ_CLS or SEQ_2_SEQ_LM."""
    if type(model).__name__.endswith("ForSequenceClassification"):
        return "SEQ_CLS"
    return "SEQ_2_SEQ_LM" if model.config.is_encoder_decoder else "CAUSAL_LM"


def linear_names(model: "PreTrainedModel") -> list[str]:
    """Dotted names of the model's linear layers, quantised ones included, without the output head."""
    import torch
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | Conv1D) and module is not head and not in_head(name)
    ]


def chosen_linears(model: "PreTrainedModel", target_modules: Literal["auto"] | Sequence[str]) -> list[str]:
    """Names of the linear layers to adapt; see `choose`."""
    return choose(linear_names(model), target_modules)


def choose(paths: Sequence[str], target_modules: Literal["auto"] | Sequence[str]) -> list[str]:
    """Names of the linear layers to adapt: those given, each of which is among `paths`, or all of them by last name.

    Raises ModelError that lists what exists when a name matches no linear layer.
    """
    leaves = sorted({path.rpartition(".")[2] for path in paths})
    if target_modules == "auto":
        return leaves
    for name in target_modules:
        if not any(path == name or path.endswith(f".{name}") for path in paths):
            raise ModelError(f"peft.target_modules: no linear layer '{name}'{did_you_mean(name, leaves)}")
    return list(target_modules)


def check_patterns(model: "PreTrainedModel", key: str, patterns: Iterable[str]) -> None:
    """Refuse a pattern that fits no linear layer; see `find_patterns`."""
    find_patterns(linear_names(model), key, patterns)


def find_patterns(paths: Sequence[str], key: str, patterns: Iterable[str]) -> None:
    """Raises ModelError when a regular expression for the end of layer names, as peft takes them, matches none.

    peft would ignore it without a word.
    """
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ModelError(f"peft.{key}: '{pattern}' is no regular expression: {error}") from error
        if not any(re.fullmatch(rf"(.*\.)?({pattern})", path) for path in paths):
            leaves = {path.rpartition(".")[2] for path in paths}
            raise ModelError(f"peft.{key}: no linear layer '{pattern}'{did_you_mean(pattern, leaves)}")


def check_modules(model: "PreTrainedModel", names: Iterable[str]) -> None:
    """Refuse a module that is not there, or that holds all layers; see `find_modules`."""
    find_modules([path for path, _ in model.named_modules() if path], linear_names(model), names)


def find_modules(paths: Sequence[str], linears: Sequence[str], names: Iterable[str]) -> None:
    """Raises ModelError when `modules_to_save` names a module that is not there, or one that holds all layers."""
    for name in names:
        if linears and all(f".{name}." in f".{path}" for path in linears):
            raise ModelError(f"peft.modules_to_save: '{name}' holds all layers, so nothing is left to adapt; name less")
        if not any(path == name or path.endswith(f".{name}") for path in paths):
            leaves = {path.rpartition(".")[2] for path in paths}
            raise ModelError(f"peft.modules_to_save: no module '{name}'{did_you_mean(name, leaves)}")


def in_fp32(model: "PeftModel") -> "PeftModel":
    """The model with what trains in fp32: copies of heads and some initialisations come in the dtype of the base."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return model


def sizes(model: "PreTrainedModel") -> dict[str, int]:
    """What peft 0.21 does not find in configurations with names of their own for it (DistilBERT, MPT)."""
    config = model.config.get_text_config()
    wanted = {
        "token_dim": "hidden_size",
        "num_attention_heads": "num_attention_heads",
        "num_layers": "num_hidden_layers",
    }
    written = config.to_dict()
    return {key: getattr(config, name) for key, name in wanted.items() if name not in written and hasattr(config, name)}


def late_forward(model: "PeftModel") -> "PeftModel":
    """Let a tuner look up its model's `forward` at each call, where it would keep, or add to, the one it met first.

    Trainers replace that method to compute the loss in pieces (TRL 1.16), and add a regulariser themselves.
    """
    tuner = model.base_model
    tuner.forward = partial(_forward, tuner)
    return model


def _forward(tuner: Any, *args: Any, **kwargs: Any) -> Any:
    return tuner.model(*args, **kwargs)


def check_layers(model: "PreTrainedModel", layers: Sequence[int] | None) -> None:
    """Refuse a decoder layer that is not there; see `find_layers`."""
    find_layers(model.config.get_text_config().num_hidden_layers, layers)


def find_layers(count: int, layers: Sequence[int] | None) -> None:
    """Raises ModelError when a decoder layer of that index (from 0) is not there."""
    if layers and max(layers) >= count:
        raise ModelError(f"peft.layers: {max(layers)} is not there; the model has layers 0 to {count - 1}")
