"""A model's `config.json` alone: from a folder, the hub's cache, a GGUF header or what is known of a wheel.

No weight is read or downloaded, and no heavy package imported; of a hub model that is not here, this one file is.
"""

import json
import os
from pathlib import Path
from typing import Any

from ftune.core.errors import ModelError
from ftune.core.paths import expanded, user_cache
from ftune.models.gguf_header import config_of_gguf
from ftune.models.load import ask_hub
from ftune.models.reference import check_reference, is_hub_id
from ftune.models.wheel import WHEELS

CONFIG, QUANTIZED = "config.json", "quantization_config"


def read_config(path: str, revision: str | None = None, *, ask: bool = False) -> dict[str, Any]:
    """The configuration of the model at a recipe's `model.path`; of one that also sees or hears, that of its text part.

    `ask` the hub for one that is not in the cache. Raises ModelError where there is no such model, and for a file that
    is none.
    """
    if problem := check_reference(path):
        raise ModelError(f"model.path: {problem}")
    if path.startswith("wheel:"):
        return dict(WHEELS[path.removeprefix("wheel:")].config)
    if path.endswith(".gguf"):
        return config_of_gguf(expanded(path))
    file = _of_hub(path, revision, ask=ask) if is_hub_id(path) else expanded(path) / CONFIG
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"model.path: {file} cannot be read: {error}") from None
    if not isinstance(config, dict) or not isinstance(config.get("model_type", ""), str):
        raise ModelError(f"model.path: {file} holds no configuration: an object with 'model_type' is expected")
    inner = config.get("text_config")
    if not isinstance(inner, dict) or "model_type" not in inner:
        return config
    whole = {QUANTIZED: config[QUANTIZED]} if QUANTIZED in config else {}  # it is said of all parts
    return whole | inner


def _of_hub(name: str, revision: str | None, *, ask: bool) -> Path:
    """The file in the hub's cache, downloaded where it is not there."""
    cached = _in_cache(name, revision or "main")
    if cached is not None:
        return cached
    if not ask:
        raise ModelError(f"model.path: the {CONFIG} of '{name}' is not in the cache; 'ftune plan' fetches it")
    ask_hub(name)
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return Path(hf_hub_download(name, CONFIG, revision=revision))
    except (OSError, ValueError, HfHubHTTPError) as error:
        cause = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(f"model.path: the {CONFIG} of '{name}' could not be had: {cause[0]}") from None


def _in_cache(name: str, revision: str) -> Path | None:
    """Where `huggingface_hub` keeps it; asking that package costs more time than everything else here."""
    home = expanded(os.environ.get("HF_HOME") or user_cache() / "huggingface")
    hub = expanded(os.environ.get("HF_HUB_CACHE") or home / "hub")
    folder = hub / f"models--{name.replace('/', '--')}"
    try:
        commit = (folder / "refs" / revision).read_text(encoding="utf-8").strip()
    except OSError:
        commit = revision
    file = folder / "snapshots" / commit / CONFIG
    return file if file.is_file() else None
