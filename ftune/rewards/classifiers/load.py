"""A sequence classifier from a folder or the hub: a whole model, or an adapter on its base or on the shared one."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from ftune.core.errors import ModelError
from ftune.models.dtype import torch_name
from ftune.models.fingerprint import base_fingerprint
from ftune.models.load import load_config, load_tokenizer, locate_model
from ftune.models.reference import is_hub_id
from ftune.models.reward_facts import RewardFacts, read_reward_facts
from ftune.rewards.base import SharedBase, Surroundings
from ftune.rewards.classifiers.find import ADAPTER, MODEL, check_classifier_path, is_adapter, result_folder
from ftune.rewards.classifiers.forward import Logits, logits_of, pools_last_token

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

ShareBase: TypeAlias = Literal["auto", "always", "never"]

HEADS = ("score.weight", "classifier.weight", "classifier.out_proj.weight", "classifier.dense.weight")
"""How the weights end that make a model a classifier; the first that is there has a row for each class."""


@dataclass(frozen=True, slots=True)
class LoadedClassifier:
    """A sequence classifier, ready to be fed."""

    logits: Logits
    tokenizer: "PreTrainedTokenizerBase"
    labels: list[str]
    """The names of the classes, in the order of the logits."""
    multi_label: bool
    """Whether each class stands for itself, so that probabilities do not sum to 1."""
    causal: bool
    """Whether it reads from left to right and its head the last token."""
    positions: int | None
    """The longest row that it can read."""
    facts: RewardFacts | None
    """What 'ftune rm' wrote beside it."""


def load_classifier(path: str, around: Surroundings, share_base: ShareBase = "auto") -> LoadedClassifier:
    """The classifier at `path`: a run folder, a result folder or a hub id. Raises ModelError."""
    if problem := check_classifier_path(path):
        raise ModelError(problem)
    folder = _adapter_of_hub(path) or result_folder(path)
    facts = None if is_hub_id(folder) else read_reward_facts(Path(folder))
    if not is_adapter(folder):
        if share_base == "always":
            raise ModelError(_not_shared(path, "is a whole model and no adapter"))
        located = locate_model(folder)
        model = _whole(located, around, {})
        return _ready(model, model, load_tokenizer(located), facts)
    base_model = facts.base_model if facts else _adapter_base(folder)
    shared = _shareable(path, facts, around, share_base)
    on_shared = _on_shared(path, folder, shared, around, share_base) if shared else None
    located = shared.located if shared else locate_model(base_model)
    tokenizer = load_tokenizer(folder if (Path(folder) / "tokenizer_config.json").is_file() else located)
    if facts:
        _tell_precision(
            path, facts, around, quantized=shared is not None and on_shared is not None and shared.quantized
        )
    if on_shared is not None:
        labels = facts.labels if facts and facts.labels else ["LABEL_0"]
        return LoadedClassifier(
            on_shared, tokenizer, labels, False, True, _positions(load_config(located), tokenizer, causal=True), facts
        )
    if facts and not shared and base_fingerprint(located) != facts.base_fingerprint:
        raise ModelError(f"'{path}' is an adapter of another base: '{base_model}' no longer holds the weights it is on")
    model, wrapped = _with_adapter(path, folder, located, facts, around)
    return _ready(model, wrapped, tokenizer, facts)


def _tell_precision(path: str, facts: RewardFacts, around: Surroundings, *, quantized: bool) -> None:
    """Say where its base has another precision than in its training."""
    if facts.quantized != quantized:
        then, now = ("quantised", "whole") if facts.quantized else ("whole", "quantised")
        around.remark(f"'{path}' was trained on {then} weights and is on {now} ones here: its scores differ a little")


def _ready(
    model: "PreTrainedModel", wrapped: Any, tokenizer: "PreTrainedTokenizerBase", facts: RewardFacts | None
) -> LoadedClassifier:
    config, causal = model.config, pools_last_token(model)
    pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    return LoadedClassifier(
        logits_of(wrapped, int(pad_id)),
        tokenizer,
        [str(config.id2label[number]) for number in range(config.num_labels)],
        config.problem_type == "multi_label_classification",
        causal,
        _positions_of(model, tokenizer),
        facts,
    )


def _positions_of(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> int | None:
    """The longest row, also of models such as RoBERTa, which count positions from behind the pad token's number."""
    positions = _positions(model.config, tokenizer, causal=pools_last_token(model))
    tables = (table for name, table in model.named_modules() if name.endswith("position_embeddings"))
    first: int | None = next(
        (pad for table in tables if (pad := getattr(table, "padding_idx", None)) is not None), None
    )
    if positions is None or first is None:
        return positions
    return min(positions, int(model.config.max_position_embeddings) - first - 1)


def _positions(config: "PreTrainedConfig", tokenizer: "PreTrainedTokenizerBase", *, causal: bool) -> int | None:
    """The longest row by configuration and, for encoders, by tokenizer; None without a limit (XLNet says -1)."""
    positions = int(getattr(config.get_text_config(), "max_position_embeddings", None) or 0)
    known = positions if causal else int(min(positions, tokenizer.model_max_length))
    return known if known > 0 else None


def _whole(located: str, around: Surroundings, labels: dict[str, object], *, head: bool = True) -> "PreTrainedModel":
    """The model with its weights; without `head`, one that an adapter brings is still to come."""
    from safetensors import SafetensorError
    from transformers import AutoModelForSequenceClassification

    load_config(located)  # asks the hub, and says plainly what is wrong
    try:
        model, info = AutoModelForSequenceClassification.from_pretrained(
            located,
            dtype=torch_name(around.dtype),
            device_map=around.device,
            use_safetensors=True,
            output_loading_info=True,
            **labels,
        )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        cause = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(f"'{located}' cannot be loaded as a sequence classifier: {cause[0]}") from error
    if head and info["missing_keys"]:
        missing = ", ".join(sorted(info["missing_keys"])[:3])
        raise ModelError(f"'{located}' is no sequence classifier: it has no {missing}; give the result of 'ftune rm'")
    return model


def _with_adapter(
    path: str, folder: str, located: str, facts: RewardFacts | None, around: Surroundings
) -> "tuple[PreTrainedModel, Any]":
    """The base as a classifier, and the PEFT model around it."""
    from ftune.peft.adapters import load_adapter

    classes = _classes(path, folder)
    named = facts.labels if facts and len(facts.labels) == classes else [f"LABEL_{number}" for number in range(classes)]
    labels: dict[str, object] = {
        "id2label": dict(enumerate(named)),
        "label2id": {label: number for number, label in enumerate(named)},
    }
    model = _whole(located, around, labels, head=False)
    try:
        return model, load_adapter(model, Path(folder))
    except (RuntimeError, ValueError, KeyError) as error:
        raise ModelError(f"'{path}': the adapter does not fit '{located}': {str(error).splitlines()[0]}") from error


def _classes(path: str, folder: str) -> int:
    """How many classes the head has that travels with an adapter."""
    from safetensors import safe_open

    try:
        with safe_open(Path(folder) / "adapter_model.safetensors", framework="pt") as weights:
            names = list(weights.keys())
            found = next((name for head in HEADS for name in names if name.endswith(head)), None)
            if found is not None:
                return int(weights.get_slice(found).get_shape()[0])
    except OSError as error:
        raise ModelError(f"'{path}': the adapter's weights cannot be read: {error}") from None
    raise ModelError(f"'{path}' is an adapter without a classification head; give the result of 'ftune rm'")


def _adapter_base(folder: str) -> str:
    try:
        return str(json.loads((Path(folder) / ADAPTER).read_text(encoding="utf-8"))["base_model_name_or_path"])
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{Path(folder) / ADAPTER}: names no base model ({error})") from None


def _adapter_of_hub(path: str) -> str | None:
    """The local folder of an adapter on the hub; None for everything else."""
    if not is_hub_id(path):
        return None
    from huggingface_hub import hf_hub_download, snapshot_download, try_to_load_from_cache

    if isinstance(try_to_load_from_cache(path, MODEL), str):  # a whole model that is here: nobody needs to be asked
        return None
    try:
        hf_hub_download(path, ADAPTER)
        return str(snapshot_download(path))
    except (OSError, ValueError):  # a whole model, or nothing: loading it as one says which
        return None


def _shareable(
    path: str, facts: RewardFacts | None, around: Surroundings, share_base: ShareBase
) -> "SharedBase | None":
    """The shared base, where this adapter was trained on the same weights."""
    if facts is None:
        problem = "has no reward_model.json, so its base is not known"
    elif around.shared is None:
        problem = "finds none: the policy's base is not shared"
    elif facts.base_fingerprint != around.shared.fingerprint:
        problem = f"was trained on another base, '{facts.base_model}'"
    else:
        return around.shared
    if share_base == "always":
        raise ModelError(_not_shared(path, problem))
    if share_base == "auto" and around.shared is not None:
        around.remark(f"'{path}' is loaded on a base of its own: it {problem}")
    return None


def _on_shared(
    path: str, folder: str, shared: SharedBase, around: Surroundings, share_base: ShareBase
) -> Logits | None:
    """The adapter on the shared base; None where it is to be, or has to be, loaded alone."""
    if share_base == "never":
        return None
    try:
        return shared.add_reward_adapter(folder)
    except ModelError as error:
        if share_base == "always":
            raise ModelError(_not_shared(path, f"does not fit ({error})")) from error
        around.remark(f"'{path}' is loaded on a base of its own: {error}")
        return None


def _not_shared(path: str, problem: str) -> str:
    return f"share_base: '{path}' cannot go on the shared base: it {problem}; use 'auto' to load it alone"
